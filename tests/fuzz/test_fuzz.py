"""A small fixed set of fuzzed inputs, what fuzzing found before, and the watch itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from antangel_cli.clinic.evaluation.importers import IMPORTERS
from antangel_cli.clinic.readers import READERS
from fuzz import watch as watching
from fuzz.drive import drive
from fuzz.targets import TARGETS, Target, require_harmless
from fuzz.watch import PropertyError, Watch

FOUND = sorted(Path(__file__).with_name("found").iterdir())
BY_NAME = {target.name: target for target in TARGETS}
INPUTS = 15


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def findings(watch: Watch) -> list[str]:
    return [f"{finding.target}: {finding.what} at {finding.where}" for finding in watch.findings.values()]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_no_input_of_the_fixed_set_breaks_anything(target: Target) -> None:
    watch = Watch()
    drive(target, watch, INPUTS)
    assert findings(watch) == []
    assert watch.inputs[target.name] == INPUTS


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
def test_what_was_found_stays_fixed(path: Path) -> None:
    watch = Watch()
    target = BY_NAME[path.name.partition("-")[0]]
    watch.run(target.name, target.run, path.read_bytes())
    assert findings(watch) == []


def test_every_reader_and_importer_is_fuzzed() -> None:
    assert {*READERS, *(f"import_{name}" for name in IMPORTERS)} <= set(BY_NAME)


def _loop(data: bytes) -> None:
    while True:
        pass


def _hoard(data: bytes) -> None:
    assert len(data * 400)


def _fail(data: bytes) -> None:
    raise KeyError(data)


@pytest.mark.parametrize(
    ("run", "what"),
    [(_loop, "TooSlow"), (_hoard, "PropertyError"), (_fail, "KeyError")],
    ids=["slow", "large", "error"],
)
def test_the_watch_sees_what_it_watches_for(run: watching.Run, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "SECONDS", 0.05)
    watch = Watch()
    for size in (1 << 17, 1 << 16):
        watch.run("any", run, b"x" * size)
    [finding] = watch.findings.values()
    assert finding.what.startswith(what)
    assert (finding.times, len(finding.data)) == (2, 1 << 16)


@pytest.mark.parametrize("char", ["\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\r"])
def test_what_steers_a_terminal_is_seen(char: str) -> None:
    require_harmless("page", "Zeile\n")
    with pytest.raises(PropertyError, match="U\\+"):
        require_harmless("page", f"a{char}b")
