"""What the documents name exists: tests, packages, versions with their changelog entries."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["RISKS.md", "docs/requirements.toml", "docs/requirements.md", "SECURITY.md"])
def test_every_test_that_a_document_names_exists(name: str) -> None:
    requirements = script("requirements")
    text = (ROOT / name).read_text(encoding="utf-8")
    assert requirements.missing(text) == []
    assert requirements.NAMED.search(text) or name == "SECURITY.md"


def test_a_test_that_does_not_exist_is_noticed() -> None:
    requirements = script("requirements")
    here = "tests/house/test_documents.py::test_a_test_that_does_not_exist_is_noticed"
    assert requirements.missing(f"{here} {here}_at_all tests/none.py::test_x") == [
        f"{here}_at_all",
        "tests/none.py::test_x",
    ]


def test_the_table_of_requirements_is_up_to_date() -> None:
    requirements = script("requirements")
    assert requirements.PAGE.read_text(encoding="utf-8") == requirements.page(), "run: python docs/requirements.py"


def test_the_command_line_is_described_as_it_is() -> None:
    cli = script("cli")
    assert cli.PAGE.read_text(encoding="utf-8") == cli.page(), "run: python docs/cli.py"


def test_every_package_that_runs_is_listed_with_its_licence_and_pinned() -> None:
    third_party = script("third_party")
    rows = re.findall(r"^\| ([\w.-]+) \| ([^|]+) \| ([^|]+) \|$", third_party.PAGE.read_text(encoding="utf-8"), re.M)[
        1:
    ]
    listed = {canonicalize_name(name): (version, licence) for name, version, licence in rows}
    assert set(listed) == set(third_party.run_time()), "run: python docs/third_party.py"
    pinned = (
        line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line
    )
    versions = {canonicalize_name(name): version for name, version in pinned}
    assert {name: versions.get(name) for name in listed} == {
        name: version.split("+")[0] for name, (version, _) in listed.items()
    }
    assert [name for name, (_, licence) in listed.items() if licence == "not stated"] == []


def test_prompts_rules_and_schemas_are_as_the_changelog_says() -> None:
    versions = script("versions")
    assert versions.changed() == [], 'run: python docs/versions.py "what it does now"'
    changelog = versions.CHANGELOG.read_text(encoding="utf-8")
    assert [name for name, entry in versions.recorded().items() if versions.label(name, entry) not in changelog] == []


def test_a_change_without_a_note_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = script("versions")
    monkeypatch.setattr(versions, "RECORD", tmp_path / "versions.toml")
    monkeypatch.setattr(versions, "CHANGELOG", tmp_path / "CHANGELOG.md")
    versions.CHANGELOG.write_text("# Changelog\n", encoding="utf-8")
    assert versions.main([]) == 1
    assert not versions.RECORD.exists()
    assert versions.main(["Recorded for the first time."]) == 0
    assert versions.changed() == []
    assert f"({versions.current()['rules']['hash'][:12]})" in versions.CHANGELOG.read_text(encoding="utf-8")
    monkeypatch.setattr(versions, "rules_provenance", lambda: {"version": "3", "hash": "f" * 64})
    assert versions.changed() == ["rules"]
