"""Write docs/requirements.md from docs/requirements.toml: each requirement with the tests that show it.

`python docs/requirements.py` fails, and writes nothing, when a test that is named does not exist.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "requirements.toml"
PAGE = ROOT / "docs" / "requirements.md"
HEAD = """# From requirement to test

Made by `python docs/requirements.py` from docs/requirements.toml; it fails when a test named there does not exist.
A requirement is shown by its tests as far as they go.

| id | requirement | tests |
|---|---|---|
"""
NAMED = re.compile(r"tests/[\w/]+\.py::\w+")


@cache
def tests_in(path: str) -> frozenset[str]:
    """The names of the test functions in a file; none where there is no file."""
    place = ROOT / path
    if not place.is_file():
        return frozenset()
    tree = ast.parse(place.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def missing(text: str) -> list[str]:
    """The tests that a text names and that do not exist."""
    names = [found.split("::") for found in NAMED.findall(text)]
    return [f"{path}::{name}" for path, name in names if name not in tests_in(path)]


def page() -> str:
    """The whole document."""
    rows = tomllib.loads(TABLE.read_text(encoding="utf-8"))["requirement"]
    lines = [f"| {row['id']} | {row['says']} | {'<br>'.join(row['tests'])} |" for row in rows]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    made = page()
    if absent := missing(made):
        sys.exit("These tests do not exist:\n" + "\n".join(absent))
    PAGE.write_text(made, encoding="utf-8")
