"""A small fixed set of fuzzed inputs, what fuzzing found before, and the watch itself."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from antangel_cli.clinic.checks import red_flags_in_text
from antangel_cli.clinic.evaluation.importers import IMPORTERS
from antangel_cli.clinic.readers import READERS
from fuzz import watch as watching
from fuzz.drive import drive
from fuzz.targets import TARGETS, Target, require_harmless
from fuzz.watch import PropertyError, Watch
from fuzz.words import prose

FOUND = sorted(Path(__file__).with_name("found").iterdir())
RED_FLAGS = Path(__file__).parents[1] / "clinic" / "red_flag_cases.toml"
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


def test_rules_looked_for_in_all_sentences_at_once_miss_none(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [". ".join(sentences) for sentences in zip(*[iter(_sentences())] * 4, strict=False)]
    texts += [prose(Random(number)) for number in range(60)]
    at_once = [red_flags_in_text(text) for text in texts]
    monkeypatch.setattr(
        sys.modules["antangel_cli.clinic.checks.red_flags"], "may_stand_in", lambda whole, pattern: True
    )
    assert [red_flags_in_text(text) for text in texts] == at_once
    assert sum(map(bool, at_once)) > len(texts) / 4


def _sentences() -> list[str]:
    """What rules are tested with, in an order that mixes them."""
    rows = tomllib.loads(RED_FLAGS.read_text(encoding="utf-8"))
    said = [text for text in _strings(rows) if " " in text or len(text) > 4]
    Random(1).shuffle(said)
    return said[:400]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)


def test_every_reader_and_importer_is_fuzzed() -> None:
    assert {*READERS, *(f"import_{name}" for name in IMPORTERS)} <= set(BY_NAME)


def _loop(data: bytes) -> None:
    while True:
        pass


def _hoard(data: bytes) -> None:
    assert len(data * 600)


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


def test_the_most_memory_an_input_took_is_told_from_64_kib_on() -> None:
    watch = Watch()
    for run, size in ((_hoard, 1 << 10), (lambda data: None, 1 << 16)):
        watch.run("any", run, b"x" * size)
    assert watch.memory["any"] < 1
    watch.run("any", lambda data: len(data * 8), b"x" * (1 << 16))
    assert 8 <= watch.memory["any"] < 9


@pytest.mark.parametrize("char", ["\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\r"])
def test_what_steers_a_terminal_is_seen(char: str) -> None:
    require_harmless("page", "Zeile\n")
    with pytest.raises(PropertyError, match="U\\+"):
        require_harmless("page", f"a{char}b")
