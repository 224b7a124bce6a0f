"""The audit log: what a line holds, what every kind of tampering looks like, and killed processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from antangel_cli.clinic import audit
from antangel_cli.clinic.audit import AuditError, Entry, append, head_file, log_file
from antangel_cli.clinic.audit_check import verify
from antangel_cli.clinic.provenance import key_file

Lines = list[bytes]


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def written(count: int) -> Lines:
    for i in range(count):
        append(Entry("diagnose", i % 7, run_id=f"run-{i}"))
    return log_file().read_bytes().splitlines(keepends=True)


def codes() -> list[tuple[str, int | None, int | None]]:
    return [(found.code, found.line, found.last) for found in verify().findings]


def replace(lines: Lines) -> None:
    log_file().write_bytes(b"".join(lines))


def edited(line: bytes) -> bytes:
    return line.replace(b'"diagnose"', b'"validate"')


def test_a_line_says_who_when_and_what_and_is_bound_to_the_one_before() -> None:
    first, second = (json.loads(line) for line in written(2))
    assert (first["n"], second["n"]) == (1, 2)
    assert first["previous"] == audit.START
    assert second["previous"] == audit.line_hash(log_file().read_bytes().splitlines(keepends=True)[0])
    assert set(first) == {
        "n", "time", "user", "command", "exit_code", "run_id", "input_hmac", "system_hmac", "output_hash", "model_hash",
        "rules_version", "urgency", "fired", "overridden", "previous", "mac",
    }  # fmt: skip
    assert verify().sound
    assert verify().lines == 2


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_files_are_private_whatever_the_umask(mask: int) -> None:
    before = os.umask(mask)
    try:
        written(1)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (log_file(), head_file(), key_file())} == {0o600}
    assert stat.S_IMODE(log_file().parent.stat().st_mode) == 0o700
    assert {path.name for path in log_file().parent.iterdir()} == {"audit.jsonl", "audit.head", "key"}


TAMPERED: dict[str, tuple[Callable[[Lines], Lines], list[tuple[str, int | None, int | None]]]] = {
    "edited": (lambda o: [*o[:2], edited(o[2]), *o[3:]], [("not_ours", 3, None)]),
    "the last edited": (lambda o: [*o[:5], edited(o[5])], [("not_ours", 6, None)]),
    "a key of the last twice": (lambda o: [*o[:5], o[5].replace(b'{"n"', b'{"n":1,"n"')], [("not_ours", 6, None)]),
    "a space put into the last": (lambda o: [*o[:5], o[5].replace(b":", b": ", 1)], [("not_ours", 6, None)]),
    "two edited": (lambda o: [o[0], edited(o[1]), edited(o[2]), *o[3:]], [("not_ours", 2, 3)]),
    "removed": (lambda o: [*o[:2], *o[3:]], [("gap", 3, None)]),
    "the first removed": (lambda o: o[1:], [("gap", 1, None)]),
    "removed behind an edited one": (lambda o: [o[0], edited(o[1]), *o[3:]], [("not_ours", 2, None), ("gap", 3, None)]),
    "the middle cut": (lambda o: [o[0], o[5]], [("gap", 2, None)]),
    "swapped": (lambda o: [*o[:2], o[3], o[2], *o[4:]], [("gap", 3, None), ("out_of_order", 4, None)]),
    "repeated": (lambda o: [*o[:3], o[1], *o[3:]], [("out_of_order", 4, None)]),
    "inserted": (lambda o: [*o[:3], b'{"n": 4}\n', *o[3:]], [("not_ours", 4, None)]),
    "put behind the end": (lambda o: [*o, b"more\n"], [("not_ours", 7, None)]),
    "begun behind the end": (lambda o: [*o, b"mor"], [("not_ours", 7, None)]),
    "the tail cut": (lambda o: o[:4], [("cut", 5, 6)]),
    "the last line cut in two": (lambda o: [*o[:5], o[5][:50]], [("not_ours", 6, None), ("cut", 6, 6)]),
    "emptied": (lambda o: [], [("cut", 1, 6)]),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_tampering_is_found_and_located(how: str) -> None:
    change, expected = TAMPERED[how]
    replace(change(written(6)))
    assert codes() == expected
    assert not verify().sound


@pytest.mark.parametrize("how", TAMPERED)
def test_what_was_tampered_with_still_shows_after_more_lines(how: str) -> None:
    change, _ = TAMPERED[how]
    replace(change(written(6)))
    more = written(3)
    assert not verify().sound
    assert all(audit.parsed(line).get("recovered") is None for line in more)


def test_a_line_left_open_spoils_no_line_behind_it() -> None:
    written(2)
    with log_file().open("ab") as log:
        log.write(b"begun")
    written(2)
    assert codes() == [("not_ours", 3, None)]
    assert verify().lines == 5


def test_lines_of_another_past_are_found() -> None:
    written(3)
    state = log_file().read_bytes(), head_file().read_bytes()
    first = written(2)
    log_file().write_bytes(state[0])
    head_file().write_bytes(state[1])
    second = written(2)
    replace([*second[:4], first[4]])
    assert codes() == [("gap", 5, None)]


def test_a_removed_log_is_found() -> None:
    written(3)
    log_file().unlink()
    assert codes() == [("cut", 1, 3)]


def test_no_log_and_no_head_is_an_empty_log() -> None:
    assert verify().sound
    assert verify().lines == 0


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"count": 2}'])
def test_a_damaged_head_is_found_and_stays_found(damage: bytes) -> None:
    written(3)
    head_file().write_bytes(damage)
    assert codes() == [("head", None, None)]
    written(1)
    assert codes() == [("head_lost", 4, None)]


def test_a_missing_head_is_found_and_stays_found() -> None:
    replace(written(4)[:2])
    head_file().unlink()
    assert codes() == [("head", None, None)]
    written(1)
    assert codes() == [("head_lost", 3, None)]


def test_an_older_head_is_found() -> None:
    written(2)
    old = head_file().read_bytes()
    written(2)
    head_file().write_bytes(old)
    assert codes() == [("added", 4, None)]


def test_another_key_is_found() -> None:
    written(3)
    key_file().write_bytes(b"k" * 32)
    assert codes() == [("not_ours", 1, 3), ("head", None, None)]


class Killed(BaseException):
    """The process ends here."""


def killed_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Append a line in a process that dies when it is about to write the head for the `step`-th time."""
    real, seen = audit._write_head, 0

    def write_head(head: audit.Head, secret: bytes) -> None:
        nonlocal seen
        seen += 1
        if seen == step:
            raise Killed
        real(head, secret)

    with monkeypatch.context() as patch:
        patch.setattr(audit, "_write_head", write_head)
        with pytest.raises(Killed):
            append(Entry("ask", 0))


def test_a_process_killed_before_the_line_leaves_a_sound_log(monkeypatch: pytest.MonkeyPatch) -> None:
    written(3)
    killed_at(monkeypatch, 1)
    assert codes() == []
    assert "recovered" not in json.loads(written(1)[-1])
    assert codes() == []


def test_a_process_killed_between_line_and_head_is_told_from_tampering(monkeypatch: pytest.MonkeyPatch) -> None:
    written(3)
    killed_at(monkeypatch, 2)
    assert codes() == [("torn", 4, None)]
    assert verify().sound
    assert json.loads(written(1)[-1])["recovered"] == "line_not_counted"
    assert codes() == []
    assert verify().lines == 5


def test_an_announced_line_that_never_came_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = written(3)
    killed_at(monkeypatch, 2)
    replace(lines)
    assert codes() == []
    assert json.loads(written(1)[-1])["recovered"] == "line_not_written"
    assert codes() == []


def test_a_torn_line_is_told_from_tampering_and_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    written(3)
    killed_at(monkeypatch, 2)
    os.truncate(log_file(), log_file().stat().st_size - 60)
    assert codes() == [("torn", 4, None)]
    assert verify().sound
    assert json.loads(written(1)[-1])["recovered"] == "line_torn"
    assert codes() == []
    assert verify().lines == 4


def _append_many(state: str, count: int) -> None:
    os.environ["XDG_STATE_HOME"] = state
    for _ in range(count):
        append(Entry("batch", 0))


def test_writers_in_several_processes_make_one_chain() -> None:
    context = multiprocessing.get_context("fork")
    state = os.environ["XDG_STATE_HOME"]
    writers = [context.Process(target=_append_many, args=(state, 25)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert verify().sound
    assert verify().lines == 100
    assert codes() == []


def test_a_log_that_cannot_be_written_is_an_audit_error() -> None:
    log_file().parent.mkdir(parents=True)
    log_file().mkdir()
    with pytest.raises(AuditError, match=r"audit\.jsonl"):
        append(Entry("ask", 0))


def test_a_link_in_place_of_the_log_is_not_followed(tmp_path: object) -> None:
    log_file().parent.mkdir(parents=True)
    log_file().symlink_to(f"{tmp_path}/elsewhere")
    with pytest.raises(AuditError):
        append(Entry("ask", 0))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_change_of_any_byte_or_line_goes_unseen(data: st.DataObject) -> None:
    for path in (log_file(), head_file()):
        path.unlink(missing_ok=True)
    lines = written(5)
    kind = data.draw(st.sampled_from(["byte", "order", "cut"]))
    if kind == "byte":
        whole = bytearray(b"".join(lines))
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] ^= data.draw(st.integers(1, 255))
        log_file().write_bytes(bytes(whole))
    elif kind == "order":
        order = data.draw(st.permutations(range(5)).filter(lambda found: found != list(range(5))))
        replace([lines[i] for i in order])
    else:
        whole = bytearray(b"".join(lines))
        log_file().write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    found = verify()
    assert not found.sound
    assert all(finding.text() and finding.text(chinese=True) for finding in found.findings)
