"""The tables of the documents about rules are those of the rules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def rules() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_rules", DOCS / "rules.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_has_its_tables_as_they_are_now(rules: ModuleType) -> None:
    pages = {name: (DOCS / name).read_text(encoding="utf-8") for name in rules.PAGES}
    assert all(rules.page(text) == text for text in pages.values()), "run: python docs/rules.py"
    for name in rules.tables():
        assert sum(f"<!-- {name} -->\n|" in text for text in pages.values()) == 1


def test_a_table_that_is_old_is_noticed(rules: ModuleType) -> None:
    text = (DOCS / "rules.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("| airway"))
    assert rules.page(text.replace(line, "| airway | 99 | 0 | 0 | 0 | 0 |")) == text


def test_the_families_count_every_rule(rules: ModuleType) -> None:
    rows = [line.split("|")[1:-1] for line in rules.families().splitlines()[2:]]
    *families, whole = [[int(cell) for cell in row[1:]] for row in rows]
    assert whole == [sum(column) for column in zip(*families, strict=True)]
    assert whole[0] == sum(whole[1:4])
