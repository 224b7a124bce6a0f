"""A trace is what was observed, step by step, for its owner's eyes, and readable up to where the power went."""

from __future__ import annotations

import gzip
import json
import resource
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.config import ModelConfig
from runtime.experts.trace import SCHEMA, TraceError, TraceWriter, read_trace
from tests.runtime.experts.traces import RECORDED

FIRST = [[[0, 3], [1, 2]], [[2, 3], [0, 1]]]  # [layers][T][K]
SECOND = [[[0, 1]], [[1, 3]]]


def written(path: Path, steps: list[list[list[list[int]]]], overwrite: bool = False) -> Path:
    with TraceWriter(path, first_layer=1, layers=2, experts=4, experts_per_token=2, overwrite=overwrite) as trace:
        for step in steps:
            for layer, ids in enumerate(step, start=1):
                trace(layer, torch.tensor(ids))
    return path


def test_what_was_observed_is_read(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path / "t.jsonl", [FIRST, SECOND]))
    assert (trace.first_layer, trace.layers, trace.experts, trace.experts_per_token) == (1, 2, 4, 2)
    assert [step.tolist() for step in trace.steps] == [FIRST, SECOND]
    assert {step.dtype for step in trace.steps} == {np.dtype(np.int16)}
    assert trace.tokens == 3


def test_only_its_owner_reads_it_and_none_is_overwritten_unasked(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", [FIRST])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(TraceError, match="exists already"):
        written(path, [SECOND])
    path.chmod(0o644)
    assert len(read_trace(written(path, [SECOND], overwrite=True)).steps) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_step_is_there_as_soon_as_the_next_begins(tmp_path: Path) -> None:
    trace = TraceWriter(tmp_path / "t.jsonl", first_layer=1, layers=2, experts=4, experts_per_token=2)
    for layer, ids in enumerate(FIRST, start=1):
        trace(layer, torch.tensor(ids))
    trace(1, torch.tensor(SECOND[0]))
    assert [step.tolist() for step in read_trace(tmp_path / "t.jsonl").steps] == [FIRST]
    trace.close()


def test_a_step_that_was_broken_off_is_left_out(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path / "t.jsonl", [FIRST[:1], SECOND, FIRST[:1]]))
    assert [step.tolist() for step in trace.steps] == [SECOND]


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_torn_last_line_is_left_out(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path / "t.jsonl", [FIRST, SECOND])
    path.write_bytes(path.read_bytes()[:-cut])
    assert [step.tolist() for step in read_trace(path).steps] == [FIRST]


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    trace = TraceWriter(path, first_layer=1, layers=1, experts=4, experts_per_token=2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    trace(1, torch.tensor([[0, 1]]))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, limits[1]))
        with pytest.raises(TraceError, match=r"t\.jsonl cannot be written"):
            trace.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


DAMAGE = {
    "no JSON": lambda line: line[:-3],
    "no object": lambda line: "[]",
    "no experts": lambda line: json.dumps({"rows": 2}),
    "rows": lambda line: line.replace('"rows":2', '"rows":3'),
    "an expert too many": lambda line: line.replace("[0,3]", "[0,4]"),
    "an expert below 0": lambda line: line.replace("[0,3]", "[-1,3]"),
    "not ascending": lambda line: line.replace("[0,3]", "[3,0]"),
    "twice the same": lambda line: line.replace("[0,3]", "[3,3]"),
    "ragged": lambda line: line.replace("[0,3]", "[0]"),
    "huge": lambda line: line.replace("[0,3]", "[0,99999999]"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_told_with_its_line(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / "t.jsonl", [FIRST, SECOND])
    lines = path.read_text().splitlines()
    lines[1] = DAMAGE[kind](lines[1])
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(TraceError, match=r"t\.jsonl, line 2") as raised:
        read_trace(path)
    assert raised.value.remedy


@pytest.mark.parametrize("header", ["{}", "[1]", "nonsense", json.dumps({"schema": SCHEMA, "layers": 2})])
def test_what_is_no_trace_is_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(header + "\n")
    with pytest.raises(TraceError, match="line 1"):
        read_trace(path)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(b"{}\n")[:-6])
    for name, word in (("none.jsonl", "No such file"), ("empty.jsonl", "empty"), ("t.jsonl.gz", "cannot be read")):
        with pytest.raises(TraceError, match=word):
            read_trace(tmp_path / name)
    with pytest.raises(TraceError, match="cannot be written"):
        written(tmp_path / "nowhere" / "t.jsonl", [FIRST])


def test_the_recorded_trace_is_of_the_demonstration_model() -> None:
    config = ModelConfig.from_directory(RECORDED.parents[2] / "nano" / "checkpoint")
    trace = read_trace(RECORDED)
    assert (trace.first_layer, trace.experts) == (config.first_k_dense_replace, config.num_experts)
    assert trace.layers == config.num_hidden_layers - config.first_k_dense_replace
    assert trace.experts_per_token == config.num_experts_per_tok
    assert trace.tokens > 10_000
