"""Record the versions and hashes of prompts, rules and schemas, with a changelog entry for what changed.

    python docs/versions.py                    # says what differs from docs/versions.toml
    python docs/versions.py "what it does now" # records it, and writes the entry into CHANGELOG.md

A test fails while something differs, or while a recorded hash has no entry.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from antangel_cli.clinic import schemas  # noqa: E402
from antangel_cli.clinic.prompt import load_prompt  # noqa: E402
from antangel_cli.clinic.rules import rules_provenance  # noqa: E402

RECORD = ROOT / "docs" / "versions.toml"
CHANGELOG = ROOT / "CHANGELOG.md"

Versions = dict[str, dict[str, str]]


def current() -> Versions:
    """Version and hash of each, as the product computes them now."""
    rules = rules_provenance()
    found = {"rules": {"version": str(rules["version"]), "hash": rules["hash"]}}
    for path in sorted((ROOT / "prompts" / "tasks").glob("*.toml")):
        both = [load_prompt(path.stem, chinese) for chinese in (False, True)]
        text = "\0".join(prompt.hash for prompt in both)
        found[f"prompt-{path.stem}"] = {"version": both[0].version, "hash": hashlib.sha256(text.encode()).hexdigest()}
    for name in schemas.NAMES:
        content = schemas.schema(name)
        text = json.dumps(content, sort_keys=True)
        found[f"schema-{name}"] = {
            "version": str(content.get("$id", name)),
            "hash": hashlib.sha256(text.encode()).hexdigest(),
        }
    return found


def recorded() -> Versions:
    """What docs/versions.toml holds."""
    return tomllib.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}


def label(name: str, entry: dict[str, str]) -> str:
    """How a changelog entry names one: name, version, and the first 12 digits of its hash."""
    return f"{name} {entry['version']} ({entry['hash'][:12]})"


def changed() -> list[str]:
    """What differs from the record, by name."""
    old, new = recorded(), current()
    return sorted(name for name in {*old, *new} if old.get(name) != new.get(name))


def record(note: str) -> None:
    """Write the record anew, and an entry with the note for what changed."""
    new, names = current(), changed()
    labels = ", ".join(label(name, new[name]) for name in names if name in new)
    CHANGELOG.write_text(f"{CHANGELOG.read_text(encoding='utf-8').rstrip()}\n- {note}: {labels}.\n", encoding="utf-8")
    tables = [f'[{name}]\nversion = "{entry["version"]}"\nhash = "{entry["hash"]}"\n' for name, entry in new.items()]
    RECORD.write_text("# Made by docs/versions.py.\n\n" + "\n".join(tables), encoding="utf-8")


def main(words: list[str]) -> int:
    """Record with a note, or say what differs; 1 while something does."""
    names = changed()
    if words and names:
        record(" ".join(words).rstrip("."))
        names = []
    sys.stdout.write("".join(f"changed: {name}\n" for name in names) or "nothing differs from docs/versions.toml\n")
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
