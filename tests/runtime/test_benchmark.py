"""Benchmarks: which rounds run, what is counted in each, and what is left of one that is interrupted. Nothing is timed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from kernels.formats import Format
from runtime.config import EngineConfig
from runtime.engine import Engine
from runtime.errors import ConfigError
from runtime.generation import Generation
from runtime.measuring import benchmark
from runtime.measuring.benchmark import BenchmarkError, Workload, drop_from_page_cache, quantiles, run_benchmark
from runtime.measuring.random_pack import RandomModel, write_random_pack
from runtime.prediction.compared import Comparison, compare_to_plan
from runtime.prediction.figures import Figure
from runtime.template import Message
from runtime.tokenizer import Tokenizer
from tests.runtime.tiny import SENTENCES, make_tiny_checkpoint, tiny_config

PROMPTS = [[Message("user", sentence)] for sentence in SENTENCES[:4]]
NEW = 6


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("packs")
    model = RandomModel(
        tiny_config(num_experts=16, num_nextn_predict_layers=0), Format.parse("w4a8:64"), Format.parse("w8a8:64")
    )
    write_random_pack(model, place / "pack", tokenizer=make_tiny_checkpoint(place / "tiny"))
    return place / "pack"


def config(**options: Any) -> EngineConfig:
    return EngineConfig(context=512, threads=1, **options)


def workload(**options: Any) -> Workload:
    return Workload(PROMPTS, **{"new_tokens": NEW, "warm_rounds": 2, **options})


def test_every_round_has_prompts_of_its_own(pack: Path) -> None:
    tokenizer = Tokenizer.from_directory(pack)
    rendered = [tuple(tokenizer.render(each)) for each in PROMPTS]
    assert workload().rounds(tokenizer) == [[rendered[0]], [rendered[1]], [rendered[2]]]
    assert workload(batch=3).rounds(tokenizer)[1] == [rendered[3], rendered[0], rendered[1]]


def test_prompts_of_a_length_end_as_conversations_do(pack: Path) -> None:
    tokenizer = Tokenizer.from_directory(pack)
    rendered = [tuple(tokenizer.render(each)) for each in PROMPTS]
    for length in (5, 200):
        prompts = [prompt for each in workload(prompt_tokens=length).rounds(tokenizer) for prompt in each]
        assert [len(prompt) for prompt in prompts] == [length] * 3
        for prompt, whole in zip(prompts, rendered, strict=False):
            shared = min(length, len(whole))
            assert prompt[-shared:] == whole[-shared:]
    assert len(set(prompts)) == 3


@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_counted_with_all_experts_in_memory(pack: Path, batch: int) -> None:
    told: list[tuple[int, int]] = []
    measured = run_benchmark(
        pack,
        config(max_sequences=batch),
        workload(batch=batch),
        listening=benchmark.Listening(measuring=lambda done, total: told.append((done, total))),
    )
    assert measured.complete
    assert (len(measured.cold.rounds), len(measured.warm.rounds)) == (1, 2)
    for phase, rounds in ((measured.cold, 1), (measured.warm, 2)):
        assert len(phase.ttft) == len(phase.prompts) == batch * rounds
        assert phase.prefill.tokens == sum(phase.prompts)
        assert phase.decode.tokens + len(phase.ttft) == batch * rounds * NEW
        assert phase.decode.rate is not None
        assert phase.prefill.paging is phase.decode.paging is phase.decode.hit_rate is phase.decode.bytes_read is None
    assert told[-1] == (3 * batch * NEW, 3 * batch * NEW)
    assert told == sorted(told)
    assert measured.peak > 0


@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_counted_with_experts_on_disk(pack: Path, batch: int) -> None:
    measured = run_benchmark(pack, config(slots=8, lookahead="off", max_sequences=batch), workload(batch=batch))
    plan = measured.plan
    assert (plan.placement, plan.slots, plan.experts) == ("paged", 8, 32)
    for phase in (measured.cold, measured.warm):
        read, made = phase.prefill.paging, phase.decode.paging
        assert read is not None
        assert made is not None
        assert read["uses"] + read["pass_uses"] > 0
        assert phase.prefill.bytes_read == read["demand_bytes"] + read["lookahead_bytes"] + read["prewarm_bytes"] > 0
        assert made["uses"] == made["hits"] + made["late"] + made["misses"]
        assert made["pass_uses"] == 0
        assert made["misses"] > 0
        assert phase.decode.bytes_read == made["demand_bytes"] == made["misses"] * plan.slot_bytes
        assert phase.decode.hit_rate == made["hits"] / made["uses"]
    # Two layers, each with 2 to 2 x batch experts, in every step but that of the first token.
    assert measured.cold.decode.paging is not None
    steps = len(measured.cold.decode.rates)
    assert 4 * steps <= measured.cold.decode.paging["uses"] <= 4 * steps * batch


def test_its_json(pack: Path) -> None:
    content = run_benchmark(pack, config(slots=8), workload(warm_rounds=1)).to_json()
    assert content["complete"]
    assert content["threads"] == 1
    assert content["paging"]["slots"] == 8
    assert content["memory"]["peak"] > 0
    assert content["memory"]["within_budget"] == (content["memory"]["peak"] <= content["memory"]["budget"])
    assert content["disk"]["bytes_per_s"] > 0
    for phase in (content["cold"], content["warm"]):
        assert phase["rounds"] == 1
        assert phase["new_tokens"] == NEW
        for stretch in (phase["prefill"], phase["decode"]):
            share = stretch["bytes_read"] / stretch["seconds"] / content["disk"]["bytes_per_s"]
            assert stretch["share_of_disk_rate"] == pytest.approx(share, rel=1e-3)
            assert set(stretch["counts"]) == set(benchmark.COUNTED)


def test_without_warm_rounds(pack: Path) -> None:
    measured = run_benchmark(pack, config(), workload(warm_rounds=0))
    assert measured.complete
    assert measured.to_json()["warm"] is None


@pytest.mark.parametrize(("steps", "rounds", "made"), [(3, 1, 3), (NEW + 2, 2, 2), (NEW, 2, 0)])
def test_interrupted_it_has_what_there_is(
    pack: Path, monkeypatch: pytest.MonkeyPatch, steps: int, rounds: int, made: int
) -> None:
    step, taken = Engine.step, iter(range(10**6))

    def interrupted(engine: Engine) -> Any:
        if next(taken) == steps:
            raise KeyboardInterrupt
        return step(engine)

    monkeypatch.setattr(Engine, "step", interrupted)
    measured = run_benchmark(pack, config(), workload())
    all_rounds = (*measured.cold.rounds, *measured.warm.rounds)
    assert not measured.complete
    assert [each.complete for each in all_rounds] == [True] * (rounds - 1) + [False]
    assert all_rounds[-1].decode.tokens + len(all_rounds[-1].ttft) == made
    assert measured.to_json()["complete"] is False


def test_a_request_that_fails_ends_it(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(generation: Generation) -> Any:
        raise BenchmarkError("no numbers", "None.")

    monkeypatch.setattr(Generation, "row", failing)
    with pytest.raises(BenchmarkError, match="a request failed: no numbers"):
        run_benchmark(pack, config(), workload())


def test_an_engine_can_be_changed_before_its_first_request(pack: Path) -> None:
    def prepare(engine: Engine) -> None:
        engine.replace_routing(lambda layer, ids: ids * 0 + ids.new_tensor([1, 2]))

    short = workload(prompt_tokens=40)
    measured = run_benchmark(pack, config(slots=8, lookahead="off"), short, prepare=prepare)
    assert measured.warm.decode.hit_rate == 1.0
    # Two experts of each of two layers, once.
    read = [phase.prefill.bytes_read for phase in (measured.cold, measured.warm)]
    assert read == [4 * measured.plan.slot_bytes, 0]


@pytest.mark.parametrize("options", [{"new_tokens": 1}, {"batch": 0}, {"warm_rounds": -1}, {"prompt_tokens": 0}])
def test_workloads_that_are_none(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        workload(**options)
    with pytest.raises(ConfigError, match="no prompt"):
        Workload([])


def test_every_file_is_forgotten(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: set[str] = set()

    def advise(file: int, start: int, length: int, advice: int) -> None:
        assert (start, length, advice) == (0, 0, os.POSIX_FADV_DONTNEED)
        forgotten.add(Path(os.readlink(f"/proc/self/fd/{file}")).name)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    drop_from_page_cache(pack)
    assert forgotten == {path.name for path in pack.iterdir()}


def test_quantiles() -> None:
    assert quantiles([]) is None
    assert quantiles([2.0]) == {"p20": 2.0, "p50": 2.0, "p80": 2.0}
    assert quantiles([1, 2, 3, 4, 5, 6]) == {"p20": 2.0, "p50": 3.5, "p80": 5.0}


def test_predicted_beside_measured(pack: Path) -> None:
    paged = config(slots=8, lookahead="off")
    measured = run_benchmark(pack, paged, workload())
    compared = compare_to_plan(pack, paged, measured, skewed=False)
    assert set(compared) == {"hit_rate", "decode_tok_s", "ttft_s", "ttft_cold_s"}
    assert compared["hit_rate"].predicted.value == pytest.approx(8 / 32)
    assert compared["hit_rate"].measured == measured.warm.decode.hit_rate
    assert compared["decode_tok_s"].measured == measured.warm.decode.rate
    assert all(each.predicted.value > 0 for each in compared.values())


def test_the_error_is_relative_to_what_was_measured() -> None:
    figure = Figure(12.0, "disk", "told")
    assert Comparison(figure, 10.0).error == pytest.approx(0.2)
    assert Comparison(figure, 0.0).error is None
    assert Comparison(figure, 10.0).to_json() == {**vars(figure), "measured": 10.0, "error": pytest.approx(0.2)}
