"""`antangel bench --replay`: a table or JSON of every policy's hit rates, and a plot, without any model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from antangel_cli.app import app
from antangel_cli.replay import replay
from antangel_cli.settings import Settings
from runtime.experts.policy import POLICIES
from runtime.experts.replay import SHARES
from runtime.experts.trace import TraceWriter
from tests.runtime.experts.traces import random_trace

RUN = CliRunner()


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    drawn = random_trace(1, [70, *[1] * 40], experts=10)
    path = tmp_path / "trace.jsonl"
    with TraceWriter(path, first_layer=1, layers=2, experts=10, experts_per_token=2) as writer:
        for step in drawn.steps:
            for layer, ids in enumerate(step, start=1):
                writer(layer, torch.from_numpy(ids))
    return path


def bench(*arguments: str | Path) -> Result:
    return RUN.invoke(app, ["bench", "--replay", *map(str, arguments)])


def test_the_table_has_every_policy_and_the_bound_last(trace: Path) -> None:
    result = bench(trace)
    assert result.exit_code == 0, result.output
    head = next(line.split() for line in result.stdout.splitlines() if line.split()[:1] == ["slots"])
    assert head == ["slots", *POLICIES, "belady"]
    assert "2 layers of 10 experts, 2 a token; 110 tokens in 41 steps, 40 of them of one token" in result.stdout
    full = [line for line in result.stdout.splitlines() if line.split()[:1] == ["100%"]]
    assert len(full) == 2
    assert len(full[0].split()) == len(head)


def test_json_has_the_same_curves(trace: Path) -> None:
    found = json.loads(bench(trace, "--json").stdout)
    assert [curve["policy"] for curve in found["curves"]] == [*POLICIES, "belady"]
    for curve in found["curves"]:
        rates = [point["decode_hit_rate"] for point in curve["points"]]
        assert [point["share"] for point in curve["points"]] == list(SHARES)
        assert rates[0] < rates[-1] <= 1


@pytest.mark.parametrize(("name", "start"), [("plot.svg", b"<?xml"), ("plot.PNG", b"\x89PNG")])
def test_the_plot_is_what_its_name_ends_in(trace: Path, tmp_path: Path, name: str, start: bytes) -> None:
    place = tmp_path / name
    result = bench(trace, "-o", place)
    assert result.exit_code == 0, result.output
    assert place.read_bytes().startswith(start)
    assert f"Written to {place}" in result.stderr
    if name.endswith("svg"):
        assert all(policy in place.read_text() for policy in (*POLICIES, "belady"))


def test_the_same_replay_is_the_same_svg(trace: Path, tmp_path: Path) -> None:
    places = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for place in places:
        assert replay(Settings(quiet=True), str(trace), str(place)) == 0
    assert places[0].read_bytes() == places[1].read_bytes()


def test_nothing_is_replayed_for_a_plot_that_cannot_be(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there.svg"
    there.touch()
    for place, word in (
        (tmp_path / "plot.pdf", ".svg"),
        (there, "exists already"),
        (tmp_path / "no" / "p.svg", "folder"),
    ):
        result = bench(trace, "-o", place)
        assert result.exit_code == 2
        assert word in result.stderr
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = bench(trace, "-o", tmp_path / "plot.svg")
    assert result.exit_code == 2
    assert "antangel[plot]" in result.stderr
    assert bench(trace).exit_code == 0


def test_a_damaged_trace_is_told_with_its_line(trace: Path, tmp_path: Path) -> None:
    trace.write_text(trace.read_text().replace('"rows":1', '"rows":2', 1))
    result = bench(trace)
    assert result.exit_code == 2
    assert "line 3" in result.stderr
    assert bench(tmp_path / "none.jsonl").exit_code == 2
