"""Rules as data: quantities and their units, red flags, and who reviewed them."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from antangel_cli.clinic.rules.site import site_rules

_FOLDER = Path(__file__).resolve().parent


@cache
def load_rules(name: str) -> dict[str, Any]:
    """The content of `rules/<name>.toml`."""
    return tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def rule_files(folder: str) -> tuple[str, ...]:
    """The names of the rule files in a folder, for `load_rules`."""
    return tuple(f"{folder}/{path.stem}" for path in sorted((_FOLDER / folder).glob("*.toml")))


def rules_provenance() -> dict[str, Any]:
    """Version, hash and review of the rules, and the site's own, as results record them."""
    site = site_rules()
    return {**_own_provenance(), "site": {"version": site.version, "hash": site.hash} if site else None}


@cache
def _own_provenance() -> dict[str, Any]:
    paths = sorted(_FOLDER.rglob("*.toml"))
    heads = [load_rules(str(path.relative_to(_FOLDER).with_suffix(""))) for path in paths]
    signed = all(signed_by(part) for head in heads for part in _signed_parts(head))
    reviewers = {str(name) for head in heads for part in _signed_parts(head) if (name := signed_by(part))}
    return {
        "version": load_rules("release")["version"],
        "hash": hashlib.sha256(b"".join(_named(path) for path in paths)).hexdigest(),
        "reviewed": signed,
        "reviewer": "; ".join(sorted(reviewers)) or None,
        "source": load_rules("release").get("source"),
    }


def _named(path: Path) -> bytes:
    """A file's content under its name, so that moving a rule to another family shows."""
    return f"{path.relative_to(_FOLDER).as_posix()}\n".encode() + path.read_bytes()


def _signed_parts(head: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a reviewer signs in a file: each of its rules, by themselves or with the file; else the file."""
    about: dict[str, Any] = {key: head[key] for key in ("reviewed", "reviewer", "reviewed_on") if key in head}
    rows = head.get("rule")
    yield from ({**about, **rule} for rule in rows) if isinstance(rows, list) else (about,)


def signed_by(part: dict[str, Any]) -> str | None:
    """Who reviewed a rule or file; None unless it says that it was, by whom and when."""
    return part["reviewer"] if part.get("reviewed") and part.get("reviewer") and part.get("reviewed_on") else None


def rules_status(*, chinese: bool) -> str:
    """One line: `rules 2: not clinically reviewed`."""
    known = rules_provenance()
    if known["reviewed"]:
        return f"规则 {known['version']}：已经临床审核" if chinese else f"rules {known['version']}: clinically reviewed"
    return f"规则 {known['version']}：未经临床审核" if chinese else f"rules {known['version']}: not clinically reviewed"
