"""Rules as data: quantities and their units, red flags, and who reviewed them."""

from __future__ import annotations

import hashlib
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).resolve().parent


@cache
def load_rules(name: str) -> dict[str, Any]:
    """The content of `rules/<name>.toml`."""
    return tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


@cache
def rules_provenance() -> dict[str, Any]:
    """Version, hash and review of the rules, as results record them."""
    head = load_rules("red_flags")
    content = b"".join(path.read_bytes() for path in sorted(_FOLDER.glob("*.toml")))
    return {
        "version": head["version"],
        "hash": hashlib.sha256(content).hexdigest(),
        "reviewed": head["reviewed"],
        "reviewer": head.get("reviewer"),
        "source": head.get("source"),
    }


def rules_status(*, chinese: bool) -> str:
    """One line: `rules 1: not clinically reviewed`."""
    known = rules_provenance()
    if known["reviewed"]:
        return f"规则 {known['version']}：已经临床审核" if chinese else f"rules {known['version']}: clinically reviewed"
    return f"规则 {known['version']}：未经临床审核" if chinese else f"rules {known['version']}: not clinically reviewed"
