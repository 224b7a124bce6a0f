"""The script for a GPU: it runs to its end in the interpreter, it imports little, and its arithmetic is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.gpu_report import Report
from bench.gpu_routing import Forced, chosen
from bench.gpu_targets import Links, Target, decode_target, predicted, prefill_target, wanted_hits
from bench.place import ROOT

LINKS = Links(pcie=50e9, dram=200e9, cpu=120e9)

# What a GPU machine need not have, though antangel does.
ABSENT = ("jinja2", "llguidance", "pydantic", "typer", "rich", "prompt_toolkit", "wcwidth", "matplotlib")


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def dry_run(command: str, folder: Path) -> dict[str, Any]:
    arguments = [sys.executable, "-m", "bench.gpu", command, "--shape", "tiny", "-o", str(folder)]
    done = subprocess.run(
        arguments,
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    content: dict[str, Any] = json.loads((folder / f"gpu-{command}.json").read_text(encoding="utf-8"))
    assert content["interpreted"]
    assert content["finished"]
    assert "failures" not in content
    return content


def test_it_needs_no_more_than_five_packages() -> None:
    code = f"""
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ImportError("absent: " + name)
sys.meta_path.insert(0, Absent())
import bench.gpu, bench.gpu_check, bench.gpu_kernels, bench.gpu_decode, bench.gpu_prompts
import kernels.gpu.probe_cases
from kernels.registry import choose
choose("cpu")
"""
    done = run(code)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_check_passes_in_the_interpreter(tmp_path: Path) -> None:
    content = dry_run("check", tmp_path)
    assert list(content["ways"].values()) == ["the same bits"]


def test_exchanged_experts_are_compared_in_the_interpreter(tmp_path: Path) -> None:
    content = dry_run("exclusive", tmp_path)
    figures = content["exclusive"]
    assert figures["slots"] + figures["frames"] > 8 > figures["frames"]
    assert content["decode"]["exchanging at a hit rate of 0.7"]["hit_rate"] == 0.5
    assert content["compared"] == "exchanged experts are what they were"


def test_rates_are_predicted_from_what_is_missed_and_the_links() -> None:
    rates = predicted(4e-3, 1e9, LINKS)
    assert rates["paging"] == pytest.approx(1 / (4e-3 + 1 / 50))
    assert rates["host"] == pytest.approx(1 / (4e-3 + 1 / 120))
    assert rates["both"] == pytest.approx(1 / (4e-3 + 1 / 170))
    assert predicted(4e-3, 1e9, Links(50e9, 150e9, 120e9))["both"] == pytest.approx(1 / (4e-3 + 1 / 150))
    assert set(predicted(4e-3, 0, LINKS).values()) == {250.0}


def test_the_table_of_the_design_comes_out() -> None:
    """An H100 with a capped cache and half of all uses hitting: 50 tokens a second by paging, as runtime.md says."""
    assert predicted(3.5e-3, 0.5 * 1.66e9, Links(50e9, 200e9, 150e9))["paging"] == pytest.approx(50, abs=0.5)


@pytest.mark.parametrize(("reached", "at_most", "met"), [(0.75, False, True), (0.7, False, False), (0.8, True, False)])
def test_targets_are_met_from_their_bound_on(reached: float, at_most: bool, met: bool) -> None:
    target = Target("it", 0.75, reached, at_most)
    assert (target.met, target.to_json()["met"]) == (met, met)


def test_what_is_to_be_reached_of_predictions_and_of_the_link() -> None:
    assert decode_target("both", "hit rate 0.5", 76, 100).met
    assert not decode_target("both", "hit rate 0.5", 74, 100).met
    target = prefill_target(8192, pool=53_000, resident=15_000, pcie=50_000, seconds=1.0)
    assert target.bound == pytest.approx(38 / 50 / 0.75)
    assert target.met


@pytest.mark.parametrize("share", [0.0, 0.5, 0.7, 0.9, 1.0])
def test_hits_of_all_layers_add_up_to_the_share(share: float) -> None:
    hits = wanted_hits(31, 8, share)
    assert len(hits) == 31
    assert sum(hits) == round(31 * 8 * share)
    assert max(hits) - min(hits) <= 1
    assert all(0 <= count <= 8 for count in hits)


@pytest.mark.parametrize("hits", [0, 3, 8])
def test_experts_are_chosen_by_what_is_resident(hits: int) -> None:
    random = np.random.default_rng(0)
    resident = np.arange(64) % 3 == 0
    last_used = np.arange(64, dtype=np.int32)
    for _ in range(20):
        ids = chosen(resident, last_used, hits, 8, random)
        assert len(set(ids.tolist())) == 8
        assert (np.diff(ids) > 0).all()
        assert int(resident[ids].sum()) == hits
        # Those that were used longest ago may leave before they are needed.
        assert all(expert >= 30 for expert in ids[resident[ids]])


def test_experts_are_chosen_as_far_as_there_are_any() -> None:
    random, last_used = np.random.default_rng(0), np.zeros(12, dtype=np.int32)
    none, every = np.zeros(12, dtype=np.bool_), np.ones(12, dtype=np.bool_)
    assert len(set(chosen(none, last_used, 4, 4, random).tolist())) == 4
    assert len(set(chosen(every, last_used, 0, 4, random).tolist())) == 4


def test_forced_experts_are_those_of_one_row_only() -> None:
    forced = Forced(1, lambda: [np.array([2, 5]), np.array([0, 7])])
    forced.prepare()
    assert forced(2, torch.tensor([[1, 3]])).tolist() == [[0, 7]]
    assert forced(1, torch.tensor([[1, 3], [2, 4]])).tolist() == [[1, 3], [2, 4]]
    assert forced.seconds > 0


def test_a_report_is_whole_after_each_figure(tmp_path: Path) -> None:
    report = Report(tmp_path / "results" / "gpu-x.json", {"command": "x"}, seconds=100)
    place = tmp_path / "results" / "gpu-x.json"
    report.figure("rates", {"a": 1})
    report.figure("rates", {"b": 2})
    report.target(Target("it", 2, 1))
    content = json.loads(place.read_text(encoding="utf-8"))
    assert content["rates"] == {"a": 1, "b": 2}
    assert content["targets"] == [{"measure": "it", "bound": 2, "reached": 1, "at_most": False, "met": False}]
    assert not content["finished"]
    assert {"commit", "gpu", "driver", "torch", "triton", "machine", "interpreted"} <= content.keys()
    assert not report.has_time(1000, "more")
    assert json.loads(place.read_text(encoding="utf-8"))["skipped"] == ["more"]
    assert [path.name for path in place.parent.iterdir()] == ["gpu-x.json"]


def test_without_a_place_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = Report(None, {}, seconds=1)
    report.figure("a", 1)
    report.finish()
    assert not list(tmp_path.iterdir())
    assert not report.failed
    report.failure("wrong")
    assert report.failed
