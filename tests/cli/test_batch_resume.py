"""A batch that goes on where another ended: in the end the output is that of a run nobody disturbed."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.batches import (
    Record,
    cases,
    child,
    failing,
    ids,
    records,
    run_batch,
    same,
    stopping,
    use,
)
from tests.cli.cases import case_line
from tests.cli.scripted import Scripted

TURN = ["--concurrency", "2"]


def killed() -> None:
    """End a run as abruptly as a test can in its own process."""
    raise SystemExit(137)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return use(monkeypatch, Scripted())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def undisturbed(lines: list[str], folder: Path, *flags: str) -> list[Record]:
    whole = folder / "whole.jsonl"
    run_batch(lines, "-o", str(whole), "--force", *TURN, *flags)
    return records(whole)


@pytest.mark.parametrize("step", [1, 12, 20, 38, 60])
def test_after_a_run_that_was_cut_off_the_output_is_that_of_one_that_was_not(
    step: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: Path, model: Scripted
) -> None:
    lines = [*cases(5), "{no json", case_line("c1"), *cases(8)[5:]]
    wanted = undisturbed(lines, tmp_path)
    use(monkeypatch, stopping(step, killed))
    run_batch(lines, "-o", str(out), "--resume", *TURN)
    before = records(out)
    assert len(before) < len(wanted)
    again = use(monkeypatch, Scripted())
    result = run_batch(lines, "-o", str(out), "--resume", *TURN)
    assert result.exit_code == 6, result.stderr
    assert same(records(out), wanted)
    assert len(again.tasks) == 8 - sum(record["status"] == "ok" for record in before)
    assert os.listdir(tmp_path).count("out.jsonl") == 1
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl", "whole.jsonl"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


@pytest.mark.parametrize("kept", [0, 1, 13, 200, -1])
def test_a_torn_last_line_is_cut_off_and_answered_again(kept: int, tmp_path: Path, out: Path, model: Scripted) -> None:
    lines = cases(3)
    wanted = undisturbed(lines, tmp_path)
    whole = (tmp_path / "whole.jsonl").read_bytes()
    *first, last = whole.splitlines(keepends=True)
    out.write_bytes(b"".join(first) + last[:kept])
    assert run_batch(lines, "-o", str(out), "--resume").exit_code == 0
    assert same(records(out), wanted)
    assert out.read_bytes().startswith(b"".join(first))


def test_what_failed_is_tried_again_and_stands_in_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: Path, model: Scripted
) -> None:
    lines = cases(5)
    wanted = undisturbed(lines, tmp_path)
    use(monkeypatch, failing("for 2 hours", "for 4 hours"))
    assert run_batch(lines, "-o", str(out)).exit_code == 6
    assert [record["status"] for record in records(out)] == ["ok", "error", "ok", "error", "ok"]
    again = use(monkeypatch, Scripted())
    result = run_batch(lines, "-o", str(out), "--resume")
    assert result.exit_code == 0
    assert len(again.tasks) == 2
    assert "5 lines: 5 ok, 3 of them done before" in result.stderr
    assert same(records(out), wanted)


def test_all_that_is_done_is_left_as_it_is(out: Path, model: Scripted) -> None:
    lines = cases(4)
    run_batch(lines, "-o", str(out))
    before, made = out.read_bytes(), out.stat().st_ino
    asked = len(model.tasks)
    assert run_batch(lines, "-o", str(out), "--resume").exit_code == 0
    assert (out.read_bytes(), out.stat().st_ino) == (before, made)
    assert len(model.tasks) == asked


def test_the_exit_code_is_that_of_the_whole_output(out: Path, model: Scripted) -> None:
    lines = cases(2)
    run_batch(lines, "-o", str(out))
    assert run_batch(lines, "-o", str(out), "--resume", "--fail-on", "urgent").exit_code == 10
    assert run_batch([*lines, "{"], "-o", str(out), "--resume").exit_code == 6


def other_weights() -> Scripted:
    scripted = Scripted()
    scripted.provenance["weights"] = "f" * 64
    return scripted


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        (["--temperature", "0.2"], "sampling"),
        (["--seed", "3"], "sampling"),
        (["--reasoning", "off"], "options (reasoning)"),
        (["--max-dx", "7"], "schema, options (max_dx)"),
        (["--doses", "--lang", "zh"], "options (lang, doses)"),
    ],
)
def test_other_settings_are_refused_by_name(flags: list[str], changed: str, out: Path, model: Scripted) -> None:
    lines = cases(2)
    run_batch(lines[:1], "-o", str(out))
    before = out.read_bytes()
    result = run_batch(lines, "-o", str(out), "--resume", *flags)
    assert result.exit_code == 2
    assert f"Line 1 of {out} was made with other settings: {changed}." in result.stderr
    assert out.read_bytes() == before


def test_another_model_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, out: Path, model: Scripted) -> None:
    run_batch(cases(1), "-o", str(out))
    use(monkeypatch, other_weights())
    result = run_batch(cases(2), "-o", str(out), "--resume")
    assert result.exit_code == 2
    assert "other settings: model." in result.stderr


def test_errors_alone_bind_to_no_settings(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    use(monkeypatch, failing("Chest"))
    run_batch(cases(2), "-o", str(out))
    use(monkeypatch, other_weights())
    assert run_batch(cases(2), "-o", str(out), "--resume", "--temperature", "0.1").exit_code == 0
    assert [record["status"] for record in records(out)] == ["ok", "ok"]


def test_more_time_and_a_new_gold_are_no_other_settings(out: Path, model: Scripted) -> None:
    run_batch(cases(2), "-o", str(out))
    asked = len(model.tasks)
    lines = cases(2, gold={"diagnosis": "Angina"})
    assert run_batch(lines, "-o", str(out), "--resume", "--timeout", "900").exit_code == 0
    assert len(model.tasks) == asked


def test_a_case_that_changed_is_answered_again_and_its_old_result_goes(out: Path, model: Scripted) -> None:
    lines = cases(3)
    run_batch(lines, "-o", str(out))
    old = records(out)
    lines[1] = case_line("c1", narrative="Headache.")
    run_batch(lines, "-o", str(out), "--resume")
    new = records(out)
    assert ids(new) == ["c0", "c1", "c2"]
    assert [a == b for a, b in zip(old, new, strict=True)] == [True, False, True]
    lines[1] = case_line("c1", nonsense=1)
    assert run_batch(lines, "-o", str(out), "--resume").exit_code == 6
    assert [record["status"] for record in records(out)] == ["ok", "error", "ok"]


def test_results_of_cases_that_did_not_come_are_kept_at_the_end(out: Path, model: Scripted) -> None:
    run_batch(cases(4), "-o", str(out))
    run_batch(cases(4)[2:], "-o", str(out), "--resume")
    assert ids(records(out)) == ["c2", "c3", "c0", "c1"]


def test_errors_of_lines_that_are_no_longer_there_go(
    monkeypatch: pytest.MonkeyPatch, out: Path, model: Scripted
) -> None:
    use(monkeypatch, failing("for 3 hours"))
    run_batch([*cases(3), "{", "["], "-o", str(out))
    assert [record["status"] for record in records(out)] == ["ok", "ok", "error", "error", "error"]
    assert run_batch(cases(2), "-o", str(out), "--resume").exit_code == 0
    assert ids(records(out)) == ["c0", "c1"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_result_counts_whatever_errors_of_its_id_stand_beside_it(
    order: tuple[int, int], monkeypatch: pytest.MonkeyPatch, out: Path
) -> None:
    written = []
    for scripted in (failing("Chest"), Scripted()):
        use(monkeypatch, scripted)
        run_batch(cases(1), "-o", str(out), "--force")
        written.append(out.read_bytes())
    out.write_bytes(b"".join(written[i] for i in order))
    again = use(monkeypatch, Scripted())
    assert run_batch(cases(1), "-o", str(out), "--resume").exit_code == 0
    assert again.tasks == []
    assert out.read_bytes() == written[1]


def test_an_interrupt_keeps_what_was_not_yet_reached(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: Path, model: Scripted
) -> None:
    lines = ["{", *cases(6), "{"]
    wanted = undisturbed(lines, tmp_path)
    use(monkeypatch, failing("for 1 hours", "for 3 hours"))
    run_batch(lines, "-o", str(out))
    use(monkeypatch, stopping(2, lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert run_batch(lines, "-o", str(out), "--resume", "--concurrency", "1").exit_code == 130
    found = records(out)
    assert ids(found)[:2] == [None, "c0"]
    assert sorted(map(str, ids(found))) == sorted(map(str, ids(wanted)))
    assert len(found) == len(wanted)
    use(monkeypatch, Scripted())
    assert run_batch(lines, "-o", str(out), "--resume").exit_code == 6
    assert same(records(out), wanted)


def test_a_limit_goes_on_to_the_same_line(tmp_path: Path, out: Path, model: Scripted) -> None:
    lines = cases(5)
    for limit in ("2", "4"):
        run_batch(lines, "-o", str(out), "--resume", "--limit", limit)
        assert ids(records(out)) == [f"c{i}" for i in range(int(limit))]
    run_batch(lines, "-o", str(out), "--resume", "--limit", "1")
    assert len(records(out)) == 4


def test_unordered_output_is_gone_on_with_too(monkeypatch: pytest.MonkeyPatch, out: Path, model: Scripted) -> None:
    lines = cases(6)
    use(monkeypatch, failing("for 2 hours"))
    run_batch(lines, "-o", str(out), "--unordered")
    use(monkeypatch, Scripted())
    assert run_batch(lines, "-o", str(out), "--resume", "--unordered").exit_code == 0
    assert sorted(map(str, ids(records(out)))) == [f"c{i}" for i in range(6)]
    assert {record["status"] for record in records(out)} == {"ok"}


def test_lines_of_text_and_repeated_lines_keep_their_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: Path, model: Scripted
) -> None:
    lines, flags = ["Headache.", "Fever.", "Headache."], ["--input-format", "text"]
    wanted = undisturbed(lines, tmp_path, *flags)
    use(monkeypatch, stopping(20, killed))
    run_batch(lines, "-o", str(out), "--concurrency", "1", *flags)
    use(monkeypatch, Scripted())
    run_batch(lines, "-o", str(out), "--resume", *flags)
    assert ids(wanted) == ["line-1", "line-2", "line-3"]
    assert same(records(out), wanted)


@pytest.mark.parametrize(
    "content",
    [
        "notes without an end", "a,b\n1,2\n", '{"id": "c0"}\n', "[]\n", "\n",
        '{"schema": "antangel.case/1", "id": "c0"}\n',
        '{"schema": "antangel.ddx/1", "status": "ok"}\n',
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_left_alone(content: str, out: Path, model: Scripted) -> None:
    out.write_text(content)
    result = run_batch(cases(1), "-o", str(out), "--resume")
    assert result.exit_code == 2
    assert f"Line 1 of {out}" in result.stderr
    assert out.read_text() == content
    assert model.tasks == []


def test_a_line_without_a_fingerprint_is_refused(out: Path, model: Scripted) -> None:
    run_batch(cases(1), "-o", str(out))
    record = {key: value for key, value in records(out)[0].items() if key != "fingerprint"}
    out.write_text(json.dumps(record) + "\n")
    result = run_batch(cases(1), "-o", str(out), "--resume")
    assert (result.exit_code, "no fingerprint" in result.stderr) == (2, True)


def test_a_file_that_another_batch_writes_is_busy(out: Path, model: Scripted) -> None:
    out.touch()
    with out.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert run_batch(cases(1), "-o", str(out), "--resume").exit_code == 75
        assert run_batch(cases(1), "-o", str(out), "--force").exit_code == 75
    assert run_batch(cases(1), "-o", str(out), "--resume").exit_code == 0


@pytest.mark.parametrize(
    "flags",
    [
        ["--resume"], ["--resume", "-o", "-"], ["--resume", "-o", "/dev/null"], ["--resume", "-o", "{out}", "--force"],
        ["--resume", "-o", "{out}", "--dry-run"], ["--resume", "-o", "{out}", "--skip-done", "{out}"],
        ["--dry-run", "--skip-done", "{out}"], ["--skip-done", "{out}"],
    ],
)  # fmt: skip
def test_what_cannot_be_gone_on_with_is_a_usage_error(flags: list[str], out: Path, model: Scripted) -> None:
    result = run_batch(cases(1), *(flag.format(out=out) for flag in flags))
    assert (result.exit_code, result.stdout) == (2, "")
    assert not out.exists()
    assert model.tasks == []


def with_home(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    home.mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(home))


def test_machines_that_share_a_key_go_on_with_each_others_output(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: Path, model: Scripted
) -> None:
    lines, key = cases(4), tmp_path / "key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    parts = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for part, share in zip(parts, (lines[:2], lines[2:]), strict=True):
        with_home(monkeypatch, tmp_path / part.stem)
        run_batch(share, "-o", str(part), "--fingerprint-key", str(key))
    out.write_bytes(b"".join(part.read_bytes() for part in reversed(parts)))
    asked = len(model.tasks)
    assert run_batch(lines, "-o", str(out), "--resume", "--fingerprint-key", str(key)).exit_code == 0
    assert len(model.tasks) == asked
    assert ids(records(out)) == ["c0", "c1", "c2", "c3"]
    refused = run_batch(lines, "-o", str(out), "--resume")
    assert refused.exit_code == 2
    assert "the key of the fingerprints" in refused.stderr


@pytest.mark.parametrize(("size", "mode"), [(15, 0o600), (5000, 0o600), (32, 0o640), (None, 0)])
def test_a_key_that_is_none_is_refused(size: int | None, mode: int, tmp_path: Path, out: Path, model: Scripted) -> None:
    key = tmp_path / "key"
    if size is not None:
        key.write_bytes(bytes(size))
        key.chmod(mode)
    result = run_batch(cases(1), "-o", str(out), "--fingerprint-key", str(key))
    assert (result.exit_code, str(key) in result.stderr) == (2, True)
    assert not out.exists()


def test_a_fingerprint_says_nothing_of_the_case_without_the_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Scripted
) -> None:
    made = []
    for name in ("one", "two"):
        with_home(monkeypatch, tmp_path / name)
        made.append(undisturbed(cases(1), tmp_path)[0]["fingerprint"])
    assert not set(made[0].values()) & set(made[1].values())


def test_done_lines_are_skipped(out: Path, model: Scripted) -> None:
    lines = cases(4)
    run_batch(lines[:2], "-o", str(out))
    result = run_batch([*lines, "{"], "--skip-done", str(out))
    assert ids([json.loads(line) for line in result.stdout.splitlines()]) == ["c2", "c3", None]
    assert result.exit_code == 6
    assert ids(records(out)) == ["c0", "c1"]


def appended(lines: list[str], out: Path) -> int:
    with out.open("ab") as stdout:
        arguments: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": stdout, "stderr": subprocess.PIPE}
        with child("batch", "--skip-done", str(out), **arguments) as process:
            process.communicate("\n".join(lines).encode(), timeout=120)
            return process.returncode


def test_appending_cuts_a_torn_line_off_first(out: Path) -> None:
    lines = cases(3)
    assert appended(lines[:2], out) == 0
    first = out.read_bytes()
    out.write_bytes(first[:-20])
    assert appended(lines, out) == 0
    assert ids(records(out)) == ["c0", "c1", "c2"]
    assert appended(lines, out) == 0
    assert len(records(out)) == 3
