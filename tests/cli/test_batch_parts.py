"""Parts of a batch by themselves: the table of ids, percentiles, progress."""

from __future__ import annotations

import io
import math
import re
import sys
import time
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antangel_cli import meter as module
from antangel_cli.batching.ids import FEWEST_SLOTS, Ids
from antangel_cli.batching.progress import Total, count_lines
from antangel_cli.batching.tally import SHARES, percentiles
from antangel_cli.lines import Lines
from antangel_cli.terminal import Terminal


@given(st.lists(st.tuples(st.text(max_size=5), st.integers(0, 2**60)), max_size=60))
def test_ids_are_a_map(pairs: list[tuple[str, int]]) -> None:
    table, wanted = Ids(), dict[str, int]()
    for name, number in pairs:
        assert (name in table) == (name in wanted)
        table.put(name, number)
        wanted[name] = number
    assert {name: table.get(name) for name in wanted} == wanted
    assert len(table) == len(wanted)
    assert table.get("not one of them") is None


def test_many_ids_are_kept_in_little_memory() -> None:
    table, count = Ids(), 20 * FEWEST_SLOTS
    for i in range(count):
        table.put(f"case-{i}", i)
    assert all(table.get(f"case-{i}") == i for i in range(count))
    assert not any(f"other-{i}" in table for i in range(count))
    assert sum(sys.getsizeof(part) for part in (table._keys, table._values)) <= 48 * count + 1000


@given(st.lists(st.floats(0, 1000, width=32), min_size=1, max_size=300))
def test_percentiles_are_the_least_values_that_so_many_do_not_exceed(values: list[float]) -> None:
    found = percentiles(array("f", values))
    for name, share in SHARES.items():
        value = found[name]
        assert value is not None
        wanted = sorted(values)[math.ceil(round(share * len(values), 9)) - 1]
        assert value == pytest.approx(wanted, abs=0.001)


def test_no_values_have_no_percentiles() -> None:
    assert set(percentiles(array("f")).values()) == {None}


def test_lines_are_counted_without_blank_ones(tmp_path: Path) -> None:
    assert count_lines(Lines(io.BytesIO(b"a\n\n \nb\n" + b"x" * (5 << 20) + b"\nc"))) == 4
    path = tmp_path / "in.jsonl"
    path.write_text("a\n\nb\nc\n")
    for limit, wanted in ((None, 3), (2, 2), (9, 3)):
        total = Total(str(path), limit)
        until = time.monotonic() + 20
        while total.count is None and time.monotonic() < until:
            time.sleep(0.01)
        assert total.count == wanted
    assert Total(str(tmp_path)).count is None
    assert Total(None).count is None


def test_a_line_of_progress_says_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with Terminal(progress="always").meter("Cases", "cases") as advance:
        for seconds, done, total in ((29, 5, 100), (60, 20, 100), (70, 30, 100), (120, 80, None), (180, 80, 100)):
            now[0] = seconds
            advance(done, total)
    assert capsys.readouterr().err.splitlines() == [
        "Cases: 20 of 100 cases, 20.0/min, about 4 min left",
        "Cases: 80 cases, 60.0/min",
        "Cases: 80 of 100 cases",
    ]


def test_a_bar_says_count_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with Terminal().meter("Cases", "cases") as advance:
        for done in range(4):
            advance(done, 40)
            time.sleep(0.15)
    shown = screen.getvalue()
    assert re.search(r"3/40", shown)
    assert re.search(r"\d+\.\d/min", shown)
    assert re.search(r"0:0\d:\d\d", shown)


def test_rows_are_a_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().show_table("Batch", [("ok", "3"), ("failed: bad_json", "12")])
    assert capsys.readouterr().err == "Batch\n  ok                3\n  failed: bad_json  12\n"
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    Terminal(color=False).show_table("Batch", [("ok", "3"), ("failed: bad_json", "12")])
    assert re.search(r"│ ok +│ +3 │", screen.getvalue())
    Terminal(plain=True).show_table("Batch", [])
