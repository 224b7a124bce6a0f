"""A batch that is killed and gone on with: a few of the kills of `bench.killing`."""

from __future__ import annotations

from pathlib import Path

from bench.killing import ENDED, Program, lines, measure, outline, trial


def test_after_kills_the_output_is_that_of_a_run_nobody_disturbed(tmp_path: Path) -> None:
    measured = measure(Program(nano=False), kills=5, count=14, seed=7, folder=tmp_path)
    assert measured["kills"] == 5
    assert measured["outputs_equal"] == measured["trials"] > 0
    assert measured["audit_logs_sound"] == measured["trials"]
    assert measured["wrong"] == []
    assert any(outcome not in (ENDED, "no output yet") for outcome in measured["found_at_the_kill"])


def test_the_comparison_sees_a_line_that_is_missing_moved_or_changed(tmp_path: Path) -> None:
    trial(Program(nano=False), 6, tmp_path / "one", [])
    wanted = outline(tmp_path / "one")
    assert len(wanted) == len([*lines(6)])
    place = tmp_path / "one" / "out.jsonl"
    first, second, *rest = place.read_text().splitlines(keepends=True)
    for changed in ([second, *rest], [second, first, *rest], [first.replace("hours", "days"), second, *rest]):
        place.write_text("".join(changed))
        assert outline(tmp_path / "one") != wanted
