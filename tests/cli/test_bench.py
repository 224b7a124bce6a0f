"""`antangel bench` from outside: what it measures, what it prints, where it writes, and with which exit code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import runtime
from antangel_cli.announce import MEASURED
from antangel_cli.app import app
from antangel_cli.bench_prompts import conversations
from antangel_cli.load import skew_trace
from runtime.engine import Engine
from runtime.experts.trace import read_trace
from runtime.measuring.random_pack import RandomModel, true_shape, write_random_pack
from runtime.pack_check import check_pack
from tests.runtime.tiny import make_tiny_checkpoint, tiny_config

RUN = CliRunner()
SMALL = ("--new", "4", "--rounds", "1", "--prompt", "40", "--threads", "1")


def bench(*arguments: str | Path) -> Result:
    return RUN.invoke(app, ["bench", *map(str, arguments)])


def tiny_model() -> RandomModel:
    flash = true_shape("flash")
    shape = tiny_config(num_hidden_layers=4, num_experts=16, num_nextn_predict_layers=0, vocab_size=8192)
    return RandomModel(shape, flash.experts, flash.dense)


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    write_random_pack(tiny_model(), tmp_path / "pack", tokenizer=make_tiny_checkpoint(tmp_path / "tiny"))
    return tmp_path / "pack"


def test_the_record(pack: Path) -> None:
    result = bench(pack, *SMALL, "--slots", "25%", "--batch", "2", "--json")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert (record["schema"], record["status"], record["complete"]) == ("antangel.bench/1", "ok", True)
    assert record["model"]["name"] == "pack"
    assert record["model"]["formats"] == "experts w4a8:64, dense w8a8:64"
    assert record["asked"] == {"prompt": 40, "new": 4, "batch": 2, "rounds": 1, "routing": "router"}
    assert {"processor", "cores", "memory_bytes", "torch"} <= record["machine"].keys()
    assert record["tool"]["name"] == "antangel"
    assert record["paging"]["slots"] == 12
    assert record["paging"]["experts"] == 48
    assert record["memory"]["peak"] > 0
    for phase in ("cold", "warm"):
        assert record[phase]["prompt_tokens"] == [40, 40]
        assert record[phase]["new_tokens"] == 8
        assert record[phase]["decode"]["bytes_read"] > 0
        assert 0 <= record[phase]["decode"]["hit_rate"] < 1
    assert record["predicted"]["decode_tok_s"]["measured"] == pytest.approx(
        record["warm"]["decode_tok_s_mean"], rel=1e-3
    )


def test_the_page_and_the_file(pack: Path, tmp_path: Path) -> None:
    place = tmp_path / "result.json"
    result = bench(pack, *SMALL, "--slots", "12", "--policy", "lru", "--lookahead", "off", "-o", place)
    assert result.exit_code == 0, result.stderr
    for words in (
        "12 slots for 48 (25%), policy lru, look-ahead off",
        "decode, tokens/s",
        "hit rate",
        "Predicted",
        "peak",
    ):
        assert words in result.stdout
    record = json.loads(place.read_text())
    assert (record["paging"]["policy"], record["paging"]["lookahead"]) == ("lru", "off")
    again = bench(pack, *SMALL, "-o", place)
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    assert bench(pack, *SMALL, "-o", place, "--force").exit_code == 0
    assert json.loads(place.read_text())["paging"] is None


def test_stats_and_a_trace(pack: Path, tmp_path: Path) -> None:
    place = tmp_path / "trace.jsonl"
    result = bench(pack, *SMALL, "--slots", "12", "--stats", "--trace", place, "--json")
    assert result.exit_code == 0, result.stderr
    record, stats = json.loads(result.stdout), json.loads(result.stderr.splitlines()[-1])
    assert set(stats) == set(MEASURED)
    assert stats["ram_peak"] == record["memory"]["peak"]
    assert stats["bytes_moved"] == record["warm"]["decode"]["bytes_read"] > 0
    trace = read_trace(place)
    assert (trace.layers, trace.experts, trace.first_layer) == (3, 16, 1)
    assert [step.shape[1] for step in trace.steps] == [40, 1, 1, 1] * 2
    assert place.stat().st_mode & 0o777 == 0o600


def test_all_experts_in_memory_is_said(pack: Path) -> None:
    result = bench("-m", pack, *SMALL, "--rounds", "0")
    assert result.exit_code == 0, result.stderr
    assert "all in memory" in result.stdout


def test_a_shape_is_made_once_and_then_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "true_shape", lambda name: tiny_model(), raising=False)
    arguments = ("--shape", "flash", "--layers", "3", "--dir", tmp_path / "packs", *SMALL)
    made = bench(*arguments)
    assert made.exit_code == 0, made.stderr
    place = tmp_path / "packs" / "flash-w4a8-64-w8a8-64-3"
    assert f"Making 0.0 GB of random weights, once: {place}" in made.stderr
    assert check_pack(place).files.keys() >= {"tokenizer.json", "config.json"}
    written = (place / "manifest.json").stat().st_mtime_ns
    again = bench(*arguments, "--json")
    assert "Making" not in again.stderr
    assert json.loads(again.stdout)["model"]["name"] == place.name
    assert (place / "manifest.json").stat().st_mtime_ns == written


def test_a_disk_with_less_room_gets_fewer_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "true_shape", lambda name: tiny_model(), raising=False)
    room = tiny_model().with_layers(3).nbytes
    monkeypatch.setattr("runtime.measuring.random_pack.free_for_packs", lambda place: room)
    made = bench("--shape", "flash", "--dir", tmp_path, *SMALL, "--json")
    assert made.exit_code == 0, made.stderr
    assert "has room for 3 of 4 layers" in made.stderr
    assert json.loads(made.stdout)["model"]["name"].endswith("-3")
    monkeypatch.setattr("runtime.measuring.random_pack.free_for_packs", lambda place: 1000)
    refused = bench("--shape", "flash", "--dir", tmp_path / "other", *SMALL)
    assert refused.exit_code == 4
    assert "Free some space" in refused.stderr


def test_interrupted_it_prints_what_there_is(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, taken = Engine.step, iter(range(10**6))

    def interrupted(engine: Engine) -> Any:
        if next(taken) == 3:
            raise KeyboardInterrupt
        return step(engine)

    monkeypatch.setattr(Engine, "step", interrupted)
    result = bench(pack, *SMALL)
    assert result.exit_code == 130
    assert "Interrupted: these are partial results." in result.stdout
    assert "Predicted" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shape", "flash", "MODEL"], "--shape makes a model"),
        (["--layers", "3"], "--layers and --dir are for --shape"),
        (["--trace-skew", "FILE"], "--trace-skew is for --routing skewed"),
        (["--shape", "huge"], "huge"),
        (["MODEL", "--new", "1"], "--new is 1"),
        (["MODEL", "--batch", "0"], "--batch is 0"),
        (["MODEL", "--routing", "skewed", "--trace-skew", "/no/such/trace"], "/no/such/trace"),
    ],
)
def test_wrong_flags_are_usage(pack: Path, arguments: list[str], words: str) -> None:
    result = bench(*(str(pack) if word == "MODEL" else word for word in arguments))
    assert result.exit_code == 2, result.stderr
    assert words in result.stderr


def test_skewed_routing_has_the_traces_skew(pack: Path) -> None:
    result = bench(pack, *SMALL, "--new", "16", "--slots", "25%", "--routing", "skewed", "--json")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["asked"]["routing"] == "skewed"
    assert record["warm"]["decode"]["counts"]["uses"] == 3 * 2 * 15
    assert skew_trace(None).is_file()


def test_replay_needs_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def replay(settings: Any, trace: str, output: str | None, force: bool) -> int:
        asked.append((trace, output, force))
        return 0

    module = ModuleType("antangel_cli.replay")
    module.replay = replay  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "antangel_cli.replay", module)
    assert bench("--replay", "trace.jsonl", "-o", "plot.svg").exit_code == 0
    assert asked == [("trace.jsonl", "plot.svg", False)]


def test_prompts_are_of_several_cases_in_both_languages() -> None:
    asked = [turns[-1].content for turns in conversations()]
    assert len(set(asked)) == len(asked) >= 12
    assert {turns[0].role for turns in conversations()} == {"system"}
    assert len({turns[0].content for turns in conversations()}) == 2
