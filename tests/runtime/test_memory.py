"""Memory: plans that stay within a budget, shortfalls that are exact, and a process that keeps what was planned."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given, settings

from kernels.formats import Format
from runtime.config import Amount, EngineConfig, ModelConfig, Share
from runtime.errors import CapacityError, OptionError
from runtime.measuring.random_pack import RandomModel, true_shape, write_random_pack
from runtime.memory import (
    GROWTH,
    LEFT_FREE,
    MANY_SEQUENCES,
    MemoryPlan,
    ModelSizes,
    available,
    many_sequences,
    peak_memory,
    plan_memory,
    process_memory,
)
from runtime.pack import Pack
from runtime.packing import write_pack
from tests.runtime.tiny import make_tiny_checkpoint, tiny_config

W4, W8 = Format.parse("w4a8:64"), Format.parse("w8a8:64")
GIB = 1 << 30
USABLE = 64 * GIB
PROCESS = 400 << 20

CONFIGS = {
    "tiny": ModelConfig.from_dict(tiny_config()),
    "mini": true_shape("mini", W4, W8).config,
    "flash": true_shape("flash", W4, W8).config,
}
FLASH, MINI = CONFIGS["flash"], CONFIGS["mini"]


def sizes_of(config: ModelConfig) -> ModelSizes:
    return ModelSizes.of_config(config, W4, W8)


def planned(config: ModelConfig = FLASH, *, usable: int = USABLE, **options: Any) -> MemoryPlan:
    engine = EngineConfig(**options)
    return plan_memory(sizes_of(config), config, engine, usable=usable, process=PROCESS)


def shares() -> st.SearchStrategy[Share]:
    return st.floats(0.001, 1).map(Share)


OPTIONS = st.fixed_dictionaries(
    {"ram": st.integers(1 << 20, 100 * GIB) | shares(), "max_sequences": st.integers(1, 16)},
    optional={
        "context": st.integers(1, 200_000),
        "kv": st.integers(1, 4 * GIB) | st.floats(0.001, 0.2).map(Share),
        "kv_blocks": st.integers(1, 500),
        "slots": st.integers(1, 9000) | shares(),
        "max_batch_tokens": st.integers(1, 8192),
        "disk": st.booleans(),
    },
)


def contradicts(config: ModelConfig, options: dict[str, Any]) -> bool:
    """Whether some experts are to be on a disk that must not be read."""
    slots, every = options.get("slots"), sizes_of(config).experts.blobs
    told = max(1, slots.of(every)) if isinstance(slots, Share) else slots
    return options.get("disk") is False and told is not None and told < every


def shortfall(config: ModelConfig, options: dict[str, Any]) -> int:
    """0 where it fits."""
    try:
        planned(config, **options)
    except CapacityError as error:
        missing = error.shortfall
    else:
        return 0
    assert missing > 0
    return missing


@pytest.mark.parametrize("name", CONFIGS)
@given(options=OPTIONS)
@settings(max_examples=60, deadline=None)
def test_no_plan_takes_more_than_its_budget(name: str, options: dict[str, Any]) -> None:
    config = CONFIGS[name]
    assume(not contradicts(config, options))
    try:
        plan = planned(config, **options)
    except CapacityError:
        return
    ram = options["ram"]
    assert plan.budget == (ram.of(USABLE) if isinstance(ram, Share) else ram)
    assert plan.total <= plan.budget
    assert 1 <= plan.slots <= plan.experts == sizes_of(config).experts.blobs
    assert (plan.placement == "mapped") <= (plan.slots == plan.experts)
    assert plan.process == PROCESS + GROWTH
    assert plan.kv_blocks >= 1
    assert plan.batch_tokens >= 1
    assert plan.told
    if options.get("disk") is False:
        assert plan.slots == plan.experts


@pytest.mark.parametrize("name", CONFIGS)
@given(options=OPTIONS)
@settings(max_examples=60, deadline=None)
def test_a_shortfall_is_exact(name: str, options: dict[str, Any]) -> None:
    """With the missing bytes it fits, and with one less it does not."""
    config, ram = CONFIGS[name], options["ram"]
    assume(not contradicts(config, options))
    budget = ram.of(USABLE) if isinstance(ram, Share) else ram
    missing = shortfall(config, options | {"ram": budget})
    assume(missing)
    assert shortfall(config, options | {"ram": budget + missing}) == 0
    assert shortfall(config, options | {"ram": budget + missing - 1}) > 0


@pytest.mark.parametrize("options", [{}, {"slots": 2000}, {"slots": Share(0.2)}, {"disk": False}], ids=str)
@pytest.mark.parametrize("ram", [1 * GIB, 4 * GIB, 9 * GIB])
def test_a_shortfall_is_what_has_to_be_added(options: dict[str, Any], ram: int) -> None:
    missing = shortfall(FLASH, options | {"ram": ram})
    if missing:
        assert shortfall(FLASH, options | {"ram": ram + missing}) == 0


def test_what_fits_is_mapped_and_not_paged() -> None:
    plan = planned(MINI, ram=24 * GIB)
    assert (plan.placement, plan.slots, plan.resident_share) == ("mapped", plan.experts, 1.0)
    assert planned(MINI, ram=24 * GIB, disk=False) == plan


def test_what_does_not_fit_is_paged_with_all_the_slots_there_are() -> None:
    plan = planned(ram=16 * GIB)
    assert plan.placement == "paged"
    assert 0 < plan.slots < plan.experts
    assert 0 <= plan.budget - plan.total < plan.slot_bytes
    assert plan.resident_share == plan.slots / plan.experts
    assert planned(ram=24 * GIB).slots > plan.slots


def test_without_a_budget_a_part_of_what_is_free_is_left() -> None:
    plan = planned(usable=20 * GIB)
    assert not plan.told
    assert plan.budget == int(20 * GIB * (1 - LEFT_FREE))
    assert plan.total <= plan.budget


def test_a_share_is_of_what_is_usable() -> None:
    assert planned(usable=40 * GIB, ram=Share(0.5)) == planned(usable=40 * GIB, ram=20 * GIB)


@pytest.mark.parametrize(
    ("slots", "expected"), [(1, 1), (700, 700), (Share(0.1), 793), (Share(0.00001), 1), (10**9, 7936)], ids=str
)
def test_slots_are_as_many_as_told(slots: Amount, expected: int) -> None:
    plan = planned(ram=USABLE, slots=slots)
    assert plan.experts == 7936
    assert (plan.placement, plan.slots) == ("paged", expected)


def test_keys_and_values_take_what_they_are_told() -> None:
    block = 64 * sizes_of(FLASH).kv_per_token
    assert planned(ram=16 * GIB, kv=10 * block + 1).kv == 10 * block
    assert planned(ram=16 * GIB, kv=1).kv_blocks == 1
    assert planned(ram=16 * GIB, kv_blocks=7).kv == 7 * block
    assert planned(usable=32 * GIB, ram=16 * GIB, kv=Share(0.1)).kv_blocks == int(3.2 * GIB) // block


def test_untold_they_hold_one_context_and_room_for_the_others() -> None:
    plan = planned(MINI, ram=64 * GIB, context=4096, max_sequences=3)
    assert plan.kv_blocks == (4096 + 2 * 2048) // 64


def test_a_batch_runs_more_at_once_where_their_keys_and_values_take_little() -> None:
    assert many_sequences(ModelConfig.from_dict(tiny_config())) == MANY_SEQUENCES[1]
    assert many_sequences(true_shape("flash").config) == MANY_SEQUENCES[0]


def test_more_for_keys_and_values_is_less_for_experts() -> None:
    few, many = planned(ram=16 * GIB, kv=GIB), planned(ram=16 * GIB, kv=3 * GIB)
    taken = (few.slots - many.slots) * few.slot_bytes
    assert abs(taken - 2 * GIB) < 2 * few.slot_bytes + 64 * sizes_of(FLASH).kv_per_token


def test_without_the_disk_a_model_that_does_not_fit_is_refused() -> None:
    with pytest.raises(CapacityError, match="all experts in memory take") as caught:
        planned(ram=16 * GIB, disk=False)
    assert "--no-disk" in caught.value.remedy
    assert caught.value.shortfall > 30 * GIB


@pytest.mark.parametrize("ram", [1 << 20, 48 * GIB])
def test_without_the_disk_fewer_slots_are_a_contradiction(ram: int) -> None:
    """Whatever would fit: what is wrong is what was asked for, and no memory is missing."""
    with pytest.raises(OptionError, match=r"486 of 4,864 experts") as caught:
        planned(MINI, ram=ram, disk=False, slots=Share(0.1))
    assert "--slots" in caught.value.remedy
    assert "--no-disk" in caught.value.remedy


def test_all_slots_need_no_disk() -> None:
    assert planned(MINI, ram=48 * GIB, disk=False, slots=Share(1.0)).slots == planned(MINI, ram=48 * GIB).experts


def test_a_budget_that_is_too_small_says_what_would_do() -> None:
    with pytest.raises(CapacityError, match=r"are needed with 1 of 7,936 experts in memory") as caught:
        planned(ram=1 * GIB)
    assert f"({caught.value.shortfall:,} bytes) are missing" in caught.value.message
    assert "--ram" in caught.value.remedy


@pytest.mark.parametrize("formats", [("w4a8:64", "w8a8:64"), ("bf16", "bf16")])
@pytest.mark.parametrize("overrides", [{}, {"num_nextn_predict_layers": 0}, {"first_k_dense_replace": 0}], ids=str)
def test_sizes_are_those_of_the_pack(tmp_path: Path, formats: tuple[str, str], overrides: dict[str, Any]) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "checkpoint", dtype=torch.bfloat16, **overrides)
    write_pack(checkpoint, tmp_path / "pack", experts=formats[0], dense=formats[1])
    pack = Pack.open(tmp_path / "pack")
    sizes = ModelSizes.of_config(pack.config, *map(Format.parse, formats))
    assert sizes == pack.sizes
    assert sizes.total == pack.nbytes
    assert sizes.embedding == 832 * 128 * 2
    layers = 3 + pack.config.num_nextn_predict_layers
    assert sizes.kv_per_token == layers * 2 * 2 * 32 * 4


def test_the_true_shape_is_as_large_as_it_is_known_to_be() -> None:
    """103B parameters in 4.25 bits and 8.25: 97.1 % of them are experts."""
    sizes = sizes_of(replace(FLASH, num_nextn_predict_layers=0))
    assert 52 < sizes.experts.nbytes / 1e9 < 54
    assert 2.4 < sizes.dense / 1e9 < 2.7
    assert sizes.kv_per_token == 32 * 2 * 4 * 4 * 128


# The system adds up what threads count on their own, some pages late.
COUNTED_LATE = 2 << 20


def test_the_memory_of_a_process_is_measured() -> None:
    before = process_memory()
    assert 50 << 20 < before < 20 * GIB
    region = mmap.mmap(-1, 64 << 20)
    assert process_memory() - before < 32 << 20, "memory counts when it is touched"
    for page in range(0, len(region), mmap.PAGESIZE):
        region[page] = 1
    filled = process_memory() - COUNTED_LATE
    assert 60 << 20 < filled - before < 100 << 20
    assert peak_memory() >= filled
    region.close()
    assert process_memory() < filled - (60 << 20)
    assert peak_memory() >= filled


def test_what_a_process_has_is_available_to_it() -> None:
    assert available(5 * GIB) - available(0) == pytest.approx(5 * GIB, abs=GIB)


LARGE = {
    "hidden_size": 1024,
    "moe_intermediate_size": 1024,
    "moe_shared_expert_intermediate_size": 1024,
    "intermediate_size": 1024,
    "num_hidden_layers": 7,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "n_group": 4,
    "topk_group": 2,
    "num_nextn_predict_layers": 0,
}
CHILD = """
import json, sys
from runtime.config import EngineConfig
from runtime.engine import Engine
from runtime.memory import peak_memory, process_memory
from runtime.request import Request, Stage
from runtime.sampling import SamplingParams

ram = process_memory() + int(sys.argv[2])
engine = Engine.load(sys.argv[1], EngineConfig(threads=1, context=512, max_sequences=2, ram=ram))
prompts = [tuple(range(1, 120)), tuple(range(300, 310))]
stage = Stage(SamplingParams(temperature=1.0, ignore_eos=True), 6)
for prompt in prompts:
    assert all(event.error is None for event in engine.generate(Request(prompt, (stage,))))
plan, paging = engine.memory, engine.stats().paging
print(json.dumps({
    "told": ram, "budget": plan.budget, "peak": peak_memory(), "placement": plan.placement,
    "slots": plan.slots, "experts": plan.experts, "slot_bytes": plan.slot_bytes,
    "moved": paging.bytes_moved, "resident": paging.resident,
}))
engine.close()
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of a few hundred megabytes."""
    directory = tmp_path_factory.mktemp("large")
    tokenizer = make_tiny_checkpoint(directory / "tiny")
    model = RandomModel(tiny_config(**LARGE), W4, W8)
    assert model.geometry.nbytes > 300e6
    write_random_pack(model, directory / "pack", tokenizer=tokenizer)
    return directory / "pack"


def test_a_process_stays_within_its_budget(large: Path) -> None:
    """It may grow by half of what its experts take, and reads all of them."""
    held = Pack.open(large).sizes.experts.nbytes
    arguments = [sys.executable, "-c", CHILD, str(large), str(GROWTH + held // 2)]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    measured = json.loads(result.stdout)
    assert measured["placement"] == "paged"
    assert 0.9 * measured["slots"] < measured["resident"] <= measured["slots"] < measured["experts"]
    assert measured["moved"] > measured["slots"] * measured["slot_bytes"]
    assert measured["peak"] <= measured["budget"] == measured["told"]
