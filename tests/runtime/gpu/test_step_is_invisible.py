"""A GPU changes no bit: whatever has a slot, is fetched, or is computed by the host, one at a time or together.

Without a GPU the same launches run in Triton's interpreter, in the order in which a graph would hold them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.gpu.launch import INTERPRETING
from runtime import opening as machine
from runtime.config import Amount, EngineConfig, Share
from runtime.engine import Engine
from runtime.errors import OptionError
from runtime.experts.policy import POLICIES
from runtime.gpu import opening, vram
from runtime.gpu.device_experts import DeviceExperts
from runtime.hardware import large_pages
from runtime.pack import Pack
from runtime.packing import write_pack
from runtime.request import Request, Stage
from runtime.sampling import SamplingParams
from runtime.stats import PagingStats
from tests.kernels.scalars import same_bits
from tests.runtime.model_steps import make_batch
from tests.runtime.tiny import make_tiny_checkpoint

SHAPE: dict[str, Any] = {
    "num_experts": 12,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_nextn_predict_layers": 0,
}
SMALL: dict[str, Any] = {"block_size": 16, "kv_blocks": 60, "context": 256, "threads": 2, "max_batch_tokens": 128}
WHERE: dict[str, Any] = {"device": "cpu", "kernels": "triton interpreted"} if INTERPRETING else {"device": "cuda:0"}
BLOBS = 24
GREEDY = SamplingParams(temperature=0, repetition_penalty=1, ignore_eos=True)

Tokens = list[list[int]]


def request(number: int, tokens: int, length: int) -> Request:
    sampled = SamplingParams(temperature=1.2, top_k=40, seed=number, ignore_eos=True)
    ids = torch.randint(0, 500, (length,), generator=torch.Generator().manual_seed(number)).tolist()
    return Request(tuple(ids), (Stage(sampled if number % 2 else GREEDY, tokens),))


TOGETHER = [request(number, 2, 1 + number % 3) for number in range(8)]
LONG = [request(1, 2, 100)]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("gpu")
    write_pack(make_tiny_checkpoint(directory / "checkpoint", **SHAPE), directory / "pack")
    return directory / "pack"


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def answers(engine: Engine, requests: Sequence[Request]) -> Tokens:
    """The tokens of requests that are in flight together."""
    numbers = [engine.submit(request) for request in requests]
    tokens: dict[int, list[int]] = {number: [] for number in numbers}
    while engine.has_work:
        for event in engine.step():
            assert event.error is None
            tokens[event.sequence_id].append(event.token_id)
    engine.check_integrity()
    return [tokens[number] for number in numbers]


@pytest.fixture(scope="module")
def expected(pack: Path) -> dict[str, Tokens]:
    """What the model says on the CPU."""
    engine = Engine.load(pack, EngineConfig(**SMALL))
    said = {"together": answers(engine, TOGETHER), "long": answers(engine, LONG)}
    engine.close()
    assert len({tuple(tokens) for tokens in said["together"]}) > 4
    return said


def hidden_states(engine: Engine) -> list[Tensor]:
    """What three steps leave: a prompt, a token, and a token beside another sequence's first."""
    steps = [[(0, [5, 6], 0)], [(0, [7], 2)], [(1, [8], 0), (0, [9], 3)]]
    batches = [make_batch(chunks, SMALL["block_size"]) for chunks in steps]
    found = [engine._model.forward(batch, engine._cache).cpu() for batch in batches]
    engine.check_integrity()
    return found


@pytest.fixture(scope="module")
def on_the_cpu(pack: Path) -> list[Tensor]:
    engine = Engine.load(pack, EngineConfig(**SMALL))
    found = hidden_states(engine)
    engine.close()
    return found


def assert_same(engine: Engine, on_the_cpu: list[Tensor]) -> None:
    assert all(same_bits(found, wanted) for found, wanted in zip(hidden_states(engine), on_the_cpu, strict=True))


def loaded(pack: Path, **options: Any) -> Engine:
    return Engine.load(pack, EngineConfig(**(SMALL | WHERE | options)))


def paging(engine: Engine) -> PagingStats:
    stats = engine.stats().paging
    assert stats is not None
    assert stats.hits + stats.misses == stats.uses > 0
    return stats


def moved(engine: Engine) -> float:
    """How many experts were copied."""
    return paging(engine).bytes_moved / engine.memory.slot_bytes


@pytest.mark.parametrize(("slots", "share"), [(1, 0.5), (6, 0.0), (6, 0.5), (Share(0.5), 1.0)], ids=str)
def test_whoever_computes_what_is_missing(pack: Path, on_the_cpu: list[Tensor], slots: Amount, share: float) -> None:
    engine = loaded(pack, slots=slots, cpu_share=share, lookahead="off")
    assert_same(engine, on_the_cpu)
    stats = paging(engine)
    fetched = stats.misses - stats.in_place
    assert (stats.in_place > 0) == (share > 0)
    assert fetched > 0 if share < 1 else fetched == 0
    assert stats.evictions > 0 or slots == Share(0.5)
    assert moved(engine) > 0
    engine.close()


@pytest.mark.parametrize("policy", POLICIES)
def test_whatever_leaves_and_is_guessed(pack: Path, on_the_cpu: list[Tensor], policy: str) -> None:
    engine = loaded(pack, slots=8, policy=policy, lookahead="on")
    assert_same(engine, on_the_cpu)
    stats = paging(engine)
    assert stats.policy == policy
    assert stats.guessed >= stats.guessed_right > 0
    assert stats.lookahead_bytes > 0
    assert stats.misses > stats.in_place > 0
    engine.close()


def test_all_at_once(pack: Path, expected: dict[str, Tokens]) -> None:
    engine = loaded(pack, slots=8)
    assert answers(engine, TOGETHER) == expected["together"]
    stats = paging(engine)
    assert stats.misses > stats.in_place > 0
    engine.close()


def test_nothing_moves_where_all_have_a_slot(pack: Path, on_the_cpu: list[Tensor]) -> None:
    engine = loaded(pack, slots=BLOBS)
    assert_same(engine, on_the_cpu)
    stats = paging(engine)
    assert stats.misses == stats.bytes_moved == 0
    assert stats.resident == BLOBS
    engine.close()


@pytest.mark.parametrize("batch", [70, 128])
def test_behind_a_prompt_that_streams(pack: Path, expected: dict[str, Tokens], batch: int) -> None:
    engine = loaded(pack, slots=6, max_batch_tokens=batch)
    assert answers(engine, LONG) == expected["long"]
    stats = paging(engine)
    assert stats.pass_uses > stats.pass_hits >= 0
    assert stats.waves >= 2
    engine.close()


def test_each_expert_kept_once(pack: Path, on_the_cpu: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """RAM has no room for all of them, and what is fetched changes places with what leaves."""
    monkeypatch.setattr(vram, "SPARE_FRAMES", 0)
    monkeypatch.setattr(vram, "_frames", lambda every, slots, blob, room: every - slots)
    engine = loaded(pack, slots=8, cpu_share=0.5)
    assert isinstance(engine._pager, DeviceExperts)
    assert engine._pager.host.frames == BLOBS - 8
    assert_same(engine, on_the_cpu)
    stats = paging(engine)
    assert stats.misses > stats.in_place > 0
    assert_every_expert_is_whole(engine._pager)
    engine.close()


def test_frames_that_a_gpu_cannot_read_are_staged(
    pack: Path, on_the_cpu: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_needs_staging", lambda experts, driver: True)
    engine = loaded(pack, slots=8, cpu_share=0.0)
    assert isinstance(engine._pager, DeviceExperts)
    # What is read from here would not be the experts.
    with torch.inference_mode():
        engine._pager.placement.frames.zero_()
    assert_same(engine, on_the_cpu)
    assert moved(engine) > 0
    engine.close()


def test_what_is_kept_once_cannot_be_staged(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_needs_staging", lambda experts, driver: True)
    monkeypatch.setattr(vram, "_frames", lambda every, slots, blob, room: every - slots)
    with pytest.raises(OptionError, match="pinned") as caught:
        loaded(pack, slots=8)
    assert "ulimit -l" in caught.value.remedy


def assert_every_expert_is_whole(experts: DeviceExperts) -> None:
    """Wherever it is, an expert has the bytes that were packed."""
    geometry = experts.geometry
    place = torch.frombuffer(large_pages(geometry.blob_bytes), dtype=torch.uint8)
    for blob, location in enumerate(experts.placement.location.tolist()):
        found = experts.placement.slots[location].cpu() if location >= 0 else experts.host.memory[-1 - location]
        experts.store.read(blob, memoryview(place.numpy()))
        assert torch.equal(found, place), geometry.named(blob)


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [True, False])
def test_graphs_change_nothing(pack: Path, expected: dict[str, Tokens], graphs: bool) -> None:
    engine = loaded(pack, slots=6, graphs=graphs)
    assert [answers(engine, TOGETHER) for _ in range(4)] == [expected["together"]] * 4
    assert (engine._model.few_rows._graphs.replays > 0) == graphs  # type: ignore[attr-defined]
    engine.close()


def test_a_gpu_whose_kernels_are_refused_gets_none_of_them(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain torch computes on it, with all experts in VRAM."""
    asked: list[torch.dtype] = []

    def refuse(device: torch.device, dtype: torch.dtype, announce: object) -> str:
        asked.append(dtype)
        return "this GPU computes other bits in linear"

    monkeypatch.setattr(machine, "runs_on_gpu", refuse)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 << 30, 8 << 30))
    opened = machine.open_on_machine(Pack.open(pack), EngineConfig(**(SMALL | {"device": "cuda:0"})), None)
    assert opened.pager is None
    assert opened.finish is None
    assert asked == [torch.float32]
    assert opened.memory.slots == BLOBS
