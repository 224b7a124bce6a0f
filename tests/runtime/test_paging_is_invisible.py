"""Paging changes no token: whatever is resident, whatever leaves, whatever is guessed, alone or among others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from runtime.config import Amount, EngineConfig, Share
from runtime.engine import Engine
from runtime.errors import CapacityError, ExpertReadError, OptionError
from runtime.experts.pager import ExpertPager
from runtime.experts.policy import POLICIES
from runtime.pack_manifest import EXPERTS
from runtime.packing import write_pack
from runtime.request import Request, Stage
from runtime.sampling import SamplingParams
from runtime.stats import PagingStats
from tests.runtime.tiny import make_tiny_checkpoint

ROUTED: dict[str, Any] = {"num_experts": 16, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2}
SMALL: dict[str, Any] = {"block_size": 16, "kv_blocks": 200, "context": 256, "threads": 1}
GREEDY = SamplingParams(temperature=0, repetition_penalty=1, ignore_eos=True)
SLOTS = [1, Share(0.1), Share(0.5), Share(1.0)]
BLOBS = 3 * 16  # two layers of the decoder and one for drafts

Tokens = list[list[int]]


def request(number: int, tokens: int, length: int) -> Request:
    """Every other request is greedy, the rest are sampled."""
    sampled = SamplingParams(temperature=1.2, top_k=40, seed=number, ignore_eos=True)
    ids = torch.randint(0, 500, (length,), generator=torch.Generator().manual_seed(number)).tolist()
    return Request(tuple(ids), (Stage(sampled if number % 2 else GREEDY, tokens),))


# All together are fewer rows than a pass has.
SHORT = [request(number, 4, 4 + number // 2) for number in range(8)]
LONG = [request(number, 12, 70 + 10 * number) for number in range(2)]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("paged")
    write_pack(make_tiny_checkpoint(directory / "checkpoint", **ROUTED), directory / "pack")
    return directory / "pack"


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def loaded(pack: Path, **options: Any) -> Engine:
    return Engine.load(pack, EngineConfig(**(SMALL | options)))


def answers(engine: Engine, requests: Sequence[Request]) -> Tokens:
    """The tokens of requests that are in flight together."""
    numbers = [engine.submit(request) for request in requests]
    tokens: dict[int, list[int]] = {number: [] for number in numbers}
    while engine.has_work:
        for event in engine.step():
            if event.sequence_id in tokens:
                assert event.error is None
                tokens[event.sequence_id].append(event.token_id)
    engine.check_integrity()
    return [tokens[number] for number in numbers]


def to_the_end(engine: Engine) -> None:
    while engine.has_work:
        engine.step()


@pytest.fixture(scope="module")
def expected(pack: Path) -> dict[str, Tokens]:
    """What the model says with all experts in memory."""
    engine = loaded(pack)
    assert engine.stats().paging is None
    assert engine.memory.placement == "mapped"
    short, long = answers(engine, SHORT), answers(engine, LONG)
    assert len({tuple(tokens) for tokens in short}) == len(SHORT)
    engine.close()
    return {"short": short, "long": long}


def paging(engine: Engine) -> PagingStats:
    stats = engine.stats().paging
    assert stats is not None
    return stats


def used(engine: Engine) -> int:
    """Experts that were used."""
    assert engine._pager is not None
    return int((engine._pager.totals > 0).sum())


def blobs_moved(engine: Engine) -> float:
    return paging(engine).bytes_moved / engine.memory.slot_bytes


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("lookahead", ["on", "off"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("slots", SLOTS, ids=str)
def test_the_same_tokens(
    pack: Path, expected: dict[str, Tokens], slots: Amount, policy: str, lookahead: str, threads: int
) -> None:
    engine = loaded(pack, slots=slots, policy=policy, lookahead=lookahead, threads=threads)
    assert [answers(engine, [SHORT[i]])[0] for i in (0, 1)] == expected["short"][:2]
    alone = blobs_moved(engine)
    assert alone > 0
    assert answers(engine, SHORT) == expected["short"]
    stats = paging(engine)
    assert (stats.policy, stats.lookahead) == (policy, lookahead)
    assert stats.hits + stats.late + stats.misses == stats.uses > 0
    assert (stats.lookahead_bytes > 0) <= (lookahead == "on")
    if slots == Share(1.0):
        assert blobs_moved(engine) == stats.verified, "nothing comes twice"
        assert blobs_moved(engine) == used(engine) or lookahead == "on"
    else:
        assert blobs_moved(engine) > alone
        assert stats.evictions > 0
    engine.close()


@pytest.mark.parametrize("batch", [24, 64, 512])
@pytest.mark.parametrize("policy", ["lru", "lfu"])
@pytest.mark.parametrize("slots", SLOTS, ids=str)
def test_the_same_tokens_behind_a_long_prompt(
    pack: Path, expected: dict[str, Tokens], slots: Amount, policy: str, batch: int
) -> None:
    """The prompt is a pass over all layers, in one chunk or several; 24 rows are none, and go the way of decoding."""
    engine = loaded(pack, slots=slots, policy=policy, max_batch_tokens=batch)
    assert answers(engine, LONG) == expected["long"]
    stats = paging(engine)
    assert (stats.pass_uses > 0) == (batch >= 64)
    assert stats.bytes_moved > 0
    if slots == Share(1.0):
        assert blobs_moved(engine) == stats.verified
        assert blobs_moved(engine) >= used(engine)
    engine.close()


@pytest.mark.parametrize("slots", [1, Share(0.5)], ids=str)
def test_plain_torch_pages_as_the_kernels_do(pack: Path, expected: dict[str, Tokens], slots: Amount) -> None:
    engine = loaded(pack, slots=slots, kernels="torch")
    assert engine.backend == "torch"
    assert answers(engine, SHORT[:2]) == expected["short"][:2]
    assert answers(engine, LONG[:1]) == expected["long"][:1]
    assert paging(engine).bytes_moved > 0
    engine.close()


def likelihoods(engine: Engine) -> Tensor:
    ids = list(LONG[1].prompt_ids)
    return engine.log_likelihoods(ids[:1], ids[1:])


def test_likelihoods_have_the_same_bits(pack: Path) -> None:
    whole, paged = loaded(pack), loaded(pack, slots=3)
    assert torch.equal(likelihoods(whole), likelihoods(paged))
    assert paging(paged).bytes_moved > 0
    for engine in (whole, paged):
        engine.close()


def test_drafts_are_paged_as_well(pack: Path) -> None:
    """The layer for drafts has experts of its own, which a pass does not read ahead."""
    engines = [Engine.load(pack, EngineConfig(**SMALL, slots=slots), measure_mtp=True) for slots in (None, 5, BLOBS)]
    assert len({str(answers(engine, SHORT[:3])) for engine in engines}) == 1
    hits = [(engine.stats().mtp_drafts, engine.stats().mtp_hits) for engine in engines]
    assert len(set(hits)) == 1
    assert hits[0][0] > 0
    assert engines[1]._pager is not None
    assert engines[1]._pager.totals[2 * 16 :].any()
    for engine in engines:
        engine.close()


def interrupt_once(pager: ExpertPager, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes while the pager does this."""
    original = getattr(pager, name)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(pager, name, original)
        raise KeyboardInterrupt

    monkeypatch.setattr(pager, name, interrupted)


@pytest.mark.parametrize("place", ["begin_step", "ask", "guess", "compute", "_await", "_wait", "_ask_wave", "end_step"])
@pytest.mark.parametrize("slots", [3, Share(0.5)], ids=str)
def test_after_an_interrupt_the_next_answer_is_right(
    pack: Path, expected: dict[str, Tokens], slots: Amount, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = loaded(pack, slots=slots, lookahead="on")
    number = engine.submit(SHORT[0])
    engine.step()
    assert engine._pager is not None
    interrupt_once(engine._pager, place, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        to_the_end(engine)
    engine.abort(number)
    assert answers(engine, SHORT) == expected["short"]
    engine.close()


def damaged(pack: Path, place: Path, expert: int, size: int) -> Path:
    """A copy whose expert of the second layer has a byte that was not packed."""
    copy = Path(shutil.copytree(pack, place / "damaged"))
    with (copy / EXPERTS).open("r+b") as file:
        file.seek((16 + expert) * size + 1000)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    return copy


def routed_to(engine: Engine, expert: int) -> None:
    """All tokens go to this expert and two others of their layer."""
    others = [other for other in range(16) if other != expert][:2]
    engine.replace_routing(lambda layer, ids: torch.tensor(sorted([expert, *others])).expand_as(ids).contiguous())


def test_a_damaged_expert_is_an_error_only_for_who_needs_it(
    pack: Path, expected: dict[str, Tokens], tmp_path: Path
) -> None:
    size = loaded(pack).memory.slot_bytes
    engine = loaded(damaged(pack, tmp_path, 9, size), slots=8)
    routed_to(engine, 4)
    answers(engine, SHORT[:1])
    routed_to(engine, 9)
    number = engine.submit(SHORT[0])
    with pytest.raises(ExpertReadError, match=rf"layer 2, expert 9 in .*{EXPERTS} at byte {(16 + 9) * size:,}"):
        to_the_end(engine)
    engine.abort(number)
    engine.check_integrity()
    routed_to(engine, 4)
    answers(engine, SHORT[:1])
    engine.close()


def test_a_file_truncated_under_a_running_engine(pack: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(pack, tmp_path / "copy"))
    engine = loaded(copy, slots=4)
    routed_to(engine, 0)
    answers(engine, SHORT[:1])
    os.truncate(copy / EXPERTS, 20 * engine.memory.slot_bytes)
    routed_to(engine, 9)
    engine.submit(SHORT[0])
    with pytest.raises(ExpertReadError, match=r"layer 2, expert 9 in .* the file ends"):
        to_the_end(engine)
    engine.close()


def test_a_profile_warms_the_next_start(pack: Path, expected: dict[str, Tokens], tmp_path: Path) -> None:
    profile = tmp_path / "profiles" / "tiny.json"
    first = loaded(pack, slots=Share(0.5), profile=profile, lookahead="off")
    assert answers(first, SHORT) == expected["short"]
    assert paging(first).prewarm_bytes == 0
    first.close()
    again = loaded(pack, slots=Share(0.5), profile=profile, lookahead="off")
    assert again._pager is not None
    again._pager.settle()
    assert paging(again).prewarm_bytes == BLOBS // 2 * again.memory.slot_bytes
    assert answers(again, SHORT) == expected["short"]
    assert paging(again).hits > paging(first).hits
    assert paging(again).demand_bytes < paging(first).demand_bytes
    again.close()


def test_what_was_chosen_is_said(pack: Path) -> None:
    said: list[str] = []
    engine = Engine.load(pack, EngineConfig(**SMALL, slots=Share(0.25)), announce=said.append)
    assert engine.memory.slots == 12
    assert any(line.startswith("12 of 48 experts (25%") for line in said)
    engine.close()


def test_what_cannot_be_is_refused(pack: Path) -> None:
    with pytest.raises(OptionError, match="no policy 'fifo'"):
        loaded(pack, slots=4, policy="fifo")
    with pytest.raises(OptionError, match="VRAM"):
        loaded(pack, vram=1 << 30)
    with pytest.raises(OptionError, match="4 of 48 experts"):
        loaded(pack, slots=4, disk=False)
    with pytest.raises(OptionError, match="not packed are not paged"):
        loaded(pack.parent / "checkpoint", slots=4)
    with pytest.raises(CapacityError) as caught:
        loaded(pack, ram=100 << 20)
    assert caught.value.shortfall > 0
