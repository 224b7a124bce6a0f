"""A batch's audit log: ahead of every line, and no brake on the model."""

from __future__ import annotations

import hashlib
import json
import time
from threading import Event

import pytest

from antangel_cli import auditing
from antangel_cli.batching.output import Stream
from antangel_cli.clinic.audit import Entry
from tests.cli.batches import cases, ids, run_batch, use
from tests.cli.scripted import Scripted


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return use(monkeypatch, Scripted())


def test_no_line_is_out_before_the_log_has_it(monkeypatch: pytest.MonkeyPatch, model: Scripted) -> None:
    logged: list[str | None] = []
    early: list[bool] = []
    write = Stream.write

    def slowly(entry: Entry) -> None:
        time.sleep(0.02)
        logged.append(entry.output_hash)

    def watched(self: Stream, line: str) -> None:
        early.append(hashlib.sha256(line.encode()).hexdigest() not in logged)
        write(self, line)

    monkeypatch.setattr(auditing, "append", slowly)
    monkeypatch.setattr(Stream, "write", watched)
    result = run_batch(cases(12), "--concurrency", "3")
    assert early == [False] * 12
    assert ids([json.loads(line) for line in result.stdout.splitlines()]) == [f"c{i}" for i in range(12)]


def test_the_model_goes_on_while_the_log_waits_for_the_disk(monkeypatch: pytest.MonkeyPatch, model: Scripted) -> None:
    begun, stepped = Event(), Event()
    went_on: list[bool] = []

    def wait_for_a_step(entry: Entry) -> None:
        begun.set()
        went_on.append(stepped.wait(5))

    monkeypatch.setattr(auditing, "append", wait_for_a_step)
    model.on_step = lambda number: stepped.set() if begun.wait(0.01) else None
    assert run_batch(cases(4), "--concurrency", "2").exit_code == 0
    assert went_on == [True] * 4
