"""VRAM and RAM: plans that stay within both, shortfalls that are exact, and slots that shrink when a card refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given, settings
from torch import Tensor

from kernels.formats import Format
from kernels.gpu.prefill_attention import MOST_SCORES
from runtime.config import EngineConfig, ModelConfig, Share
from runtime.errors import CapacityError
from runtime.gpu import vram
from runtime.gpu.vram import (
    CUDA_CONTEXT,
    GRAIN,
    LEAST_STREAMED,
    SPARE_FRAMES,
    GpuPlan,
    allocate_slots,
    available_vram,
    divide,
    kv_width,
    plan_gpu,
    with_fewer_slots,
)
from runtime.memory import IDLE_PROCESS, ModelSizes
from tests.runtime.tiny import tiny_config

GB = 10**9
SHAPES = Path(vram.__file__).parents[1] / "measuring" / "shapes"
CONFIGS = {
    "tiny": ModelConfig.from_dict(tiny_config()),
    "mini": ModelConfig.from_dict(json.loads((SHAPES / "mini.json").read_text(encoding="utf-8"))),
    "flash": ModelConfig.from_dict(json.loads((SHAPES / "flash.json").read_text(encoding="utf-8"))),
}
FLASH = CONFIGS["flash"]
SIZES = {
    name: ModelSizes.of_config(config, Format.parse("w4a8:64"), Format.parse("w8a8:64"))
    for name, config in CONFIGS.items()
}
ONE = EngineConfig(max_sequences=1)


def planned(
    name: str = "flash", engine: EngineConfig = ONE, *, vram: int = 24 * GB, ram: int = 64 * GB, checked: bool = True
) -> GpuPlan:
    division = plan_gpu if checked else divide
    return division(SIZES[name], CONFIGS[name], engine, vram=vram, ram=ram, process=IDLE_PROCESS)


def shares() -> st.SearchStrategy[Share]:
    return st.floats(0.001, 1).map(Share)


OPTIONS = st.fixed_dictionaries(
    {"max_sequences": st.integers(1, 16)},
    optional={
        "context": st.integers(1, 200_000),
        "kv": st.integers(1, 4 * GB) | st.floats(0.001, 0.2).map(Share),
        "kv_blocks": st.integers(1, 500),
        "slots": st.integers(1, 9000) | shares(),
        "max_batch_tokens": st.integers(1, 8192),
        "dtype": st.sampled_from(("auto", "float32", "bfloat16")),
        "block_size": st.sampled_from((16, 64, 128)),
        "disk": st.booleans(),
    },
)
VRAM = st.integers(1 << 20, 100 * GB)
RAM = st.integers(1 << 20, 100 * GB)
several = settings(max_examples=150, deadline=None)


def told(options: dict[str, Any], vram: int, ram: int) -> EngineConfig:
    return EngineConfig(vram=vram, ram=ram, **options)


@pytest.mark.parametrize("name", CONFIGS)
@given(options=OPTIONS, vram=VRAM, ram=RAM)
@several
def test_no_plan_takes_more_than_its_budgets(name: str, options: dict[str, Any], vram: int, ram: int) -> None:
    engine = told(options, vram, ram)
    try:
        plan = planned(name, engine)
    except CapacityError:
        return
    assert (plan.vram_budget, plan.ram_budget) == (vram, ram)
    assert plan.vram_total <= vram
    assert plan.ram_total <= ram
    assert plan.vram_total == sum((plan.context, plan.dense, plan.kv, plan.workspace, plan.buffers)) + (
        plan.slots * plan.slot_bytes
    )
    assert plan.kv == plan.kv_blocks * engine.block_size * int(kv_width(engine) * SIZES[name].kv_per_token) > 0
    assert 1 <= plan.least_slots <= plan.slots <= plan.experts == SIZES[name].experts.blobs
    if plan.slots == plan.experts:
        assert (plan.buffers, plan.frames, plan.exclusive) == (0, 0, False)
        return
    assert min(LEAST_STREAMED, plan.per_layer) <= plan.streamed <= plan.per_layer
    assert plan.buffers == 2 * plan.streamed * plan.slot_bytes
    assert plan.exclusive == (plan.frames < plan.experts)
    assert plan.frames == (plan.experts - plan.slots + SPARE_FRAMES if plan.exclusive else plan.experts)
    if plan.exclusive:
        assert plan.ram_fixed + plan.experts * plan.slot_bytes > ram, "there is no room for copies"


@pytest.mark.parametrize("name", CONFIGS)
@given(options=OPTIONS, vram=VRAM, more=st.integers(0, 300) | st.integers(0, 20 * GB))
@several
def test_more_vram_never_gives_fewer_slots(name: str, options: dict[str, Any], vram: int, more: int) -> None:
    few, many = (planned(name, told(options, bytes, 200 * GB), checked=False) for bytes in (vram, vram + more))
    assert few.slots <= many.slots
    if many.slots < many.experts:
        assert few.streamed <= many.streamed
    assert few.kv_blocks <= many.kv_blocks
    assert few.batch_tokens <= many.batch_tokens


def test_no_rounding_takes_a_slot_away() -> None:
    """Around the bytes with which a slot more fits there is none with which one less does."""

    def slots(vram: int) -> int:
        return planned(engine=replace(ONE, vram=vram), checked=False).slots

    first = slots(10 * GB) + 1
    for wanted in range(first, first + 12):
        low, high = 10 * GB, 11 * GB
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if slots(middle) < wanted else (low, middle)
        near = [slots(vram) for vram in range(high - 24, high + 24)]
        assert near == sorted(near)
        assert {*near} == {wanted - 1, wanted}


def shortfall(name: str, options: dict[str, Any], vram: int, ram: int) -> tuple[int, str]:
    """0 where it fits, and which memory is short."""
    try:
        planned(name, told(options, vram, ram))
    except CapacityError as error:
        refusal = error
    else:
        return 0, ""
    assert refusal.shortfall > 0
    assert f"({refusal.shortfall:,} bytes) are missing" in refusal.message
    return refusal.shortfall, "RAM" if "GiB of RAM" in refusal.message else "VRAM"


@pytest.mark.parametrize("name", CONFIGS)
@given(options=OPTIONS, vram=st.integers(1 << 20, 30 * GB), ram=st.integers(1 << 20, 60 * GB))
@several
def test_a_shortfall_is_exact(name: str, options: dict[str, Any], vram: int, ram: int) -> None:
    """With the missing bytes that memory does, and with one less it does not."""
    missing, memory = shortfall(name, options, vram, ram)
    assume(missing)
    for added in (missing, missing - 1):
        more = {"VRAM": (vram + added, 500 * GB), "RAM": (vram, ram + added)}[memory]
        short, where = shortfall(name, options, *more)
        assert (short, where) == ((0, "") if added == missing else (1, memory))


@pytest.mark.parametrize("options", [{}, {"slots": 4000}, {"slots": Share(0.3)}, {"kv": 3 * GB}], ids=str)
@pytest.mark.parametrize(("vram", "ram"), [(2 * GB, 64 * GB), (24 * GB, 16 * GB), (8 * GB, 47 * GB)])
def test_what_is_missing_is_what_has_to_be_added(options: dict[str, Any], vram: int, ram: int) -> None:
    for _ in range(2):
        missing, memory = shortfall("flash", options, vram, ram)
        vram, ram = vram + missing * (memory == "VRAM"), ram + missing * (memory == "RAM")
    assert shortfall("flash", options, vram, ram) == (0, "")


def test_a_desk_keeps_a_copy_of_every_expert_in_ram() -> None:
    plan = planned(vram=24 * GB, ram=64 * GB)
    assert plan.vram_budget == int(0.94 * 24 * GB)
    assert not plan.exclusive
    assert plan.frames == plan.experts == 7936
    assert 1500 < plan.slots < 2500
    assert plan.batch_tokens == 4096
    assert plan.kv == 32768 * 131_072, "a whole context in fp32"
    assert 0 <= plan.vram_budget - plan.vram_total < 128 << 20, "what remains of rounding"


def test_with_less_ram_each_expert_is_kept_once() -> None:
    plan = planned(vram=24 * GB, ram=48 * GB)
    assert plan.exclusive
    assert plan.frames == plan.experts - plan.slots + SPARE_FRAMES
    assert plan.slots == planned(vram=24 * GB, ram=64 * GB).slots


def test_with_still_less_it_is_refused_whatever_a_disk_may() -> None:
    for disk in (True, False):
        with pytest.raises(CapacityError, match="under a GPU experts are not read from disk") as caught:
            planned(engine=replace(ONE, disk=disk), vram=24 * GB, ram=32 * GB)
        for word in ("--ram", "--vram", "--device cpu", "--gpu none"):
            assert word in caught.value.remedy


def test_a_large_card_holds_all_and_ram_none() -> None:
    plan = planned(vram=80 * GB, ram=8 * GB)
    assert plan.slots == plan.experts
    assert (plan.frames, plan.buffers, plan.exclusive, plan.resident_share) == (0, 0, False, 1.0)
    assert planned(vram=80 * GB, ram=8 * GB, engine=replace(ONE, slots=Share(1.0))).slots == plan.slots


def test_the_workspace_is_that_of_a_prompt_and_of_a_step() -> None:
    prompt = 4096 * 4 * (8 * 4096 + 3 * 40 * 128 + 2 * 9216) + 16 * 157_184
    attention = 4 * 16 * 32 * 512 * (64 + 128 + 2)
    kept_scores = 4 * MOST_SCORES
    assert planned().workspace == prompt + attention + 4 * 32_768 * 64 + kept_scores


def test_all_experts_go_to_a_card_as_soon_as_they_fit() -> None:
    exact = replace(ONE, kv_blocks=100, max_batch_tokens=512)
    least = planned(engine=replace(exact, slots=Share(1.0)), vram=100 * GB).vram_total
    for budget, all_fit in ((least + GRAIN, True), (least - 1, False)):
        plan = planned(engine=replace(exact, vram=budget))
        assert (plan.slots == plan.experts) == all_fit


def test_slots_that_were_told_leave_the_rest_unused() -> None:
    plan = planned(engine=replace(ONE, slots=100))
    assert (plan.slots, plan.least_slots) == (100, 100)
    assert plan.vram_budget - plan.vram_total > 5 * GB
    assert planned(engine=replace(ONE, slots=Share(1e-9))).slots == 1
    with pytest.raises(CapacityError, match=r"with 7,935 of 7,936 experts in slots") as caught:
        planned(engine=replace(ONE, slots=7935))
    assert "--slots" in caught.value.remedy


def test_what_was_told_is_kept_to() -> None:
    block = 64 * 131_072
    assert planned(engine=replace(ONE, kv=10 * block + 1)).kv_blocks == 10
    assert planned(engine=replace(ONE, kv=Share(0.1))).kv == int(2.4 * GB) // block * block
    assert planned(engine=replace(ONE, kv_blocks=7)).kv == 7 * block
    assert planned(engine=replace(ONE, kv_blocks=7, dtype="bfloat16")).kv == 7 * block // 2
    assert planned(engine=replace(ONE, max_batch_tokens=99)).batch_tokens == 99
    assert planned(engine=replace(ONE, vram=Share(0.5))) == planned(engine=replace(ONE, vram=12 * GB))


def test_small_cards_get_small_batches_and_small_buffers() -> None:
    small, large = planned(vram=6 * GB), planned(vram=24 * GB)
    assert 512 <= small.batch_tokens < large.batch_tokens
    assert LEAST_STREAMED <= small.streamed < large.streamed < planned(vram=60 * GB).streamed


def test_what_may_be_had_of_a_card_counts_what_this_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * GB, 24 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: GB)
    assert available_vram("cuda:0") == 11 * GB + CUDA_CONTEXT


class Card:
    """Has room for so many slots."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.asked: list[int] = []

    def __call__(self, slots: int) -> Tensor:
        self.asked.append(slots)
        if slots > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return torch.empty(slots, 4096, dtype=torch.uint8)


def test_slots_are_allocated_as_planned_where_there_is_room() -> None:
    plan, said = planned(), list[str]()
    card = Card(plan.slots)
    slots, held = allocate_slots(plan, card, said.append)
    assert len(slots) == plan.slots
    assert held is plan
    assert (card.asked, said) == ([plan.slots], [])


def test_they_shrink_by_steps_and_it_is_said() -> None:
    plan, said = planned(), list[str]()
    card = Card(int(0.87 * plan.slots))
    slots, held = allocate_slots(plan, card, said.append)
    step = int(0.05 * plan.slots)
    assert card.asked == [plan.slots - i * step for i in range(4)]
    assert len(slots) == held.slots == plan.slots - 3 * step
    assert held == replace(plan, slots=held.slots)
    [line] = said
    assert f"{held.slots:,} of 7,936" in line
    assert f"not {plan.slots:,}" in line
    allocate_slots(plan, Card(1))


def test_they_shrink_to_the_least_and_no_further() -> None:
    plan = planned()
    card = Card(0)
    with pytest.raises(CapacityError, match=r"no room for 1 of 7,936 experts") as caught:
        allocate_slots(plan, card)
    assert card.asked[-1] == 1
    assert card.asked == sorted(card.asked, reverse=True)
    assert caught.value.shortfall == plan.slot_bytes
    assert "--device cpu" in caught.value.remedy
    exact = planned(engine=replace(ONE, slots=100))
    with pytest.raises(CapacityError) as caught:
        allocate_slots(exact, Card(99))
    assert caught.value.shortfall == 100 * exact.slot_bytes


def test_kept_once_what_loses_its_slot_needs_a_frame() -> None:
    plan = planned(vram=24 * GB, ram=48 * GB)
    more = (plan.ram_budget - plan.ram_total) // plan.slot_bytes
    assert 200 < more < plan.slots
    slots, held = allocate_slots(plan, Card(plan.slots - 1))
    assert held.exclusive
    assert held.frames - plan.frames == plan.slots - held.slots == plan.slots - len(slots)
    assert held.ram_total <= held.ram_budget
    with pytest.raises(CapacityError, match="no room for") as caught:
        allocate_slots(plan, Card(plan.slots - more - 1))
    assert caught.value.shortfall >= (plan.slots - more) * plan.slot_bytes


def test_where_all_had_a_slot_buffers_and_frames_come_in() -> None:
    plan = planned(vram=80 * GB, ram=64 * GB)
    slots, held = allocate_slots(plan, Card(plan.slots - 1))
    assert held.streamed == LEAST_STREAMED
    assert held.frames == plan.experts
    assert len(slots) == held.slots
    assert held.vram_total <= plan.vram_total - int(0.05 * plan.slots) * plan.slot_bytes
    _, once = allocate_slots(planned(vram=80 * GB, ram=8 * GB), Card(plan.slots - 1))
    assert once.exclusive
    assert once.slots == held.slots
    assert once.frames == plan.experts - held.slots + SPARE_FRAMES
    short = planned(vram=80 * GB, ram=int(3.5 * GB))
    with pytest.raises(CapacityError):
        allocate_slots(short, Card(short.slots - 1))


@given(ram=RAM, vram=VRAM, slots=st.integers(1, 7936))
@several
def test_fewer_slots_never_take_more_vram(ram: int, vram: int, slots: int) -> None:
    try:
        plan = planned(engine=replace(ONE, ram=ram, vram=vram))
    except CapacityError:
        return
    assume(2 * LEAST_STREAMED < slots < plan.slots)
    fewer = with_fewer_slots(plan, slots)
    assert fewer.vram_total <= plan.vram_total - (plan.slots - slots) * plan.slot_bytes
    assert fewer.slots + fewer.frames >= fewer.experts
    assert fewer.slots >= 1
