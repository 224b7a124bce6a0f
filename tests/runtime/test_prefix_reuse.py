"""What was computed for one text serves the next that begins alike, to the same bits, for as long as there is room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from runtime.config import EngineConfig
from runtime.engine import Engine
from runtime.packing import write_pack
from runtime.request import NO_TOKEN, Request, Stage
from runtime.sampling import SamplingParams
from runtime.template import Message
from tests.runtime.tiny import make_tiny_checkpoint

BLOCK = 16
CONFIG = EngineConfig(block_size=BLOCK, kv_blocks=40, max_batch_tokens=64, max_sequences=4, threads=1)
SAMPLED = SamplingParams(temperature=1.1, top_k=40, seed=5, ignore_eos=True)
KINDS = {
    "fp32": ("fp32", "float32"),
    "bf16": ("bf16", "bfloat16"),
    "w8a8": ("w8a8:32", "float32"),
    "w4a8": ("w4a8:32", "bfloat16"),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("reuse") / "checkpoint")


@pytest.fixture(scope="module", params=sorted(KINDS))
def kind(
    request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A pack of every kind of format, and the number type that it runs in."""
    written, dtype = KINDS[request.param]
    pack = tmp_path_factory.mktemp("packs") / request.param
    write_pack(checkpoint, pack, experts=written, dense=written)
    return pack, dtype


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def tokens(count: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(torch.randint(0, 500, (count,), generator=torch.Generator().manual_seed(seed)).tolist())


def load(path: Path, **options: Any) -> Engine:
    return Engine.load(path, replace(CONFIG, **options))


def ask(prompt: Sequence[int], count: int = 4) -> Request:
    return Request(tuple(prompt), (Stage(SAMPLED, count),))


def reply(engine: Engine, prompt: Sequence[int], count: int = 4) -> tuple[int, ...]:
    """The generated tokens; every block must have come back."""
    events = list(engine.generate(ask(prompt, count)))
    engine.check_integrity()
    assert engine.stats().kv_blocks_free == engine.stats().kv_blocks_total
    return tuple(event.token_id for event in events if event.token_id != NO_TOKEN)


def shared_of_last(engine: Engine) -> int:
    """Tokens of the last sequence that were in the cache already."""
    *_, shared = engine.stats().shared_by_sequence.values()
    return shared


class Watched:
    """Keeps the hidden states that an engine drew its tokens from."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hidden: list[Tensor] = []
        inner = engine._model.head

        def head(hidden: Tensor, *others: Any) -> Any:
            self.hidden.append(hidden.clone())
            return inner(hidden, *others)

        monkeypatch.setattr(engine._model, "head", head)


def cached(engine: Engine, blocks: Sequence[int], count: int) -> tuple[Tensor, Tensor]:
    """Keys [L, count, G, D] and values of the first `count` tokens in these blocks."""
    layers = len(engine._model.layers)  # type: ignore[attr-defined]
    keys = engine._cache.keys[:layers, list(blocks)].permute(0, 1, 4, 2, 3).flatten(1, 2)
    values = engine._cache.values[:layers, list(blocks)].permute(0, 1, 3, 2, 4).flatten(1, 2)
    return keys[:, :count].clone(), values[:, :count].clone()


@pytest.mark.parametrize("chunk", [5, 64])
def test_decoding_writes_the_keys_and_values_that_reading_the_same_text_does(
    kind: tuple[Path, str], chunk: int
) -> None:
    """The ground of all reuse: a reply's blocks are those that its text as a prompt would have."""
    path, dtype = kind
    writer, reader = (load(path, dtype=dtype, share_prefixes=False, max_batch_tokens=each) for each in (64, chunk))
    number = writer.submit(ask(tokens(21), 60))
    while len(writer._scheduler[number].token_ids) < 70:
        writer.step()
    text = writer._scheduler[number].token_ids[:70]
    written = cached(writer, writer._scheduler[number].blocks, 69)
    other = reader.submit(ask(text, 4))
    while not reader.step():
        pass
    read = cached(reader, reader._scheduler[other].blocks, 69)
    assert torch.equal(written[0], read[0])
    assert torch.equal(written[1], read[1])
    assert written[0].abs().amin(dim=(2, 3)).gt(0).any()


@pytest.mark.parametrize("chunk", [7, 64])
@pytest.mark.parametrize("more", [1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_the_next_turn_computes_what_was_added_and_draws_from_the_same_bits(
    kind: tuple[Path, str], chunk: int, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, dtype = kind
    kept, fresh = load(path, dtype=dtype, max_batch_tokens=chunk), load(path, dtype=dtype, share_prefixes=False)
    first = tokens(40)
    answer = reply(kept, first, 30)
    assert answer == reply(fresh, first, 30)
    computed = kept.stats().prompt_tokens
    second = (*first, *answer, *tokens(more, seed=1))
    here, there = Watched(kept, monkeypatch), Watched(fresh, monkeypatch)
    assert reply(kept, second) == reply(fresh, second)
    assert all(map(torch.equal, here.hidden, there.hidden))
    assert len(here.hidden) == 4
    # The last token of a reply is drawn and never computed.
    known = (len(first) + len(answer) - 1) // BLOCK * BLOCK
    assert shared_of_last(kept) == known == 64
    assert kept.stats().prompt_tokens - computed == len(second) - known


def test_a_reply_is_had_again_and_a_changed_question_keeps_what_stands_before_it(checkpoint: Path) -> None:
    """What /retry, /undo and /edit ask of the engine."""
    kept, fresh = load(checkpoint), load(checkpoint, share_prefixes=False)
    history, question, edited = tokens(50), tokens(14, seed=1), tokens(14, seed=2)
    for prompt, known in [
        ((*history, *question), 0),
        ((*history, *question), 48),  # all 64 are known, and the last one's block is computed again
        ((*history, *edited), 48),
        (history, 48),
    ]:
        assert reply(kept, prompt, 12) == reply(fresh, prompt, 12)
        assert shared_of_last(kept) == known
    assert set(fresh.stats().shared_by_sequence.values()) == {0}


@pytest.mark.parametrize("ended", ["abort", "timeout"])
def test_a_prompt_that_was_left_half_read_is_read_on_from_there(checkpoint: Path, ended: str) -> None:
    engine, fresh = load(checkpoint, max_batch_tokens=20), load(checkpoint, share_prefixes=False)
    prompt = tokens(90)
    number = engine.submit(replace(ask(prompt), timeout_s=1000.0))
    engine.step()
    engine.step()
    if ended == "abort":
        engine.abort(number)
    else:
        engine._generations[number].deadline = 0.0
    assert [event.finish for event in engine.step()] == [ended]
    engine.check_integrity()
    assert engine.stats().kv_blocks_free == engine.stats().kv_blocks_total
    assert reply(engine, prompt) == reply(fresh, prompt)
    assert shared_of_last(engine) == 2 * BLOCK


def test_what_is_kept_stands_in_nobodys_way(checkpoint: Path) -> None:
    """Every block is kept from texts that ended; a text that needs them all is begun at once, and is the same."""
    engine, fresh = load(checkpoint, kv_blocks=8), load(checkpoint, share_prefixes=False)
    for seed in range(4):
        reply(engine, tokens(33, seed), 20)
    whole = tokens(8 * BLOCK - 4, seed=9)
    number = engine.submit(ask(whole))
    engine.step()
    assert engine._scheduler[number].cached == 64
    engine.abort(number)
    engine.step()
    assert reply(engine, whole) == reply(fresh, whole)
    assert engine.stats().preemptions == 0


def test_the_text_used_last_is_kept_longest(checkpoint: Path) -> None:
    engine = load(checkpoint, kv_blocks=9)
    old, often = tokens(40, seed=1), tokens(40, seed=2)
    for prompt in (often, old, often):
        reply(engine, prompt, 2)
    reply(engine, tokens(6 * BLOCK - 2, seed=3), 2)
    reply(engine, often, 2)
    assert shared_of_last(engine) == 2 * BLOCK
    reply(engine, old, 2)
    assert shared_of_last(engine) == BLOCK  # the end of a text goes first


def test_crowded_conversations_answer_as_alone(checkpoint: Path) -> None:
    """Turns of several conversations at once, in too few blocks: some are evicted, some preempted, none differs."""
    crowded, fresh = load(checkpoint, kv_blocks=14, max_batch_tokens=24), load(checkpoint, share_prefixes=False)
    texts = [(*tokens(30), *tokens(9, seed=seed)) for seed in range(1, 4)]
    for turn in range(3):
        numbers = {crowded.submit(ask(text, 25)): i for i, text in enumerate(texts)}
        got: dict[int, list[int]] = {number: [] for number in numbers}
        while crowded.has_work:
            for event in crowded.step():
                got[event.sequence_id].append(event.token_id)
            crowded.check_integrity()
        for number, i in numbers.items():
            assert tuple(got[number]) == reply(fresh, texts[i], 25)
            texts[i] = (*texts[i], *got[number], *tokens(3, seed=10 * turn + i))
    assert crowded.stats().preemptions > 0
    assert crowded.stats().shared_tokens > 0


def test_keys_and_values_that_drafts_depend_on_are_not_shared(checkpoint: Path) -> None:
    drafting = Engine.load(checkpoint, CONFIG, measure_mtp=True)
    fresh = load(checkpoint, share_prefixes=False)
    for _ in range(2):
        assert reply(drafting, tokens(40)) == reply(fresh, tokens(40))
    assert drafting.stats().shared_tokens == 0


def test_what_other_experts_computed_is_not_shared(checkpoint: Path) -> None:
    engine, fresh = load(checkpoint), load(checkpoint, share_prefixes=False)
    engine.replace_routing(lambda layer, ids: ids * 0 + ids.new_tensor([0, 1]))
    elsewhere = reply(engine, tokens(40))
    engine.replace_routing(None)
    assert reply(engine, tokens(40)) == reply(fresh, tokens(40)) != elsewhere
    assert shared_of_last(engine) == 0


def test_a_rendered_conversation_begins_with_the_turn_before_it(checkpoint: Path) -> None:
    """Where a reply's tokens are those of its text, the next prompt shares all of its full blocks."""
    engine = load(checkpoint)
    encode = engine.tokenizer
    said = [Message("system", "You answer briefly."), Message("user", "What is urgent about chest pain?")]
    prompt = encode.render(said)
    written = "Sweating and pain that goes to the left arm: order an ECG at once."
    reply(engine, (*prompt, *encode.encode_text(written)), 1)
    following = encode.render([*said, Message("assistant", written), Message("user", "And the blood pressure?")])
    reply(engine, following, 1)
    assert shared_of_last(engine) == len([*prompt, *encode.encode_text(written)]) // BLOCK * BLOCK


def test_statistics_are_of_the_most_recent_sequences(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.stats.TIMES_KEPT", 2)
    engine = load(checkpoint)
    for _ in range(3):
        reply(engine, tokens(40), 1)
    assert dict(engine.stats().shared_by_sequence) == {1: 32, 2: 32}
    assert engine.stats().ttft_seconds.keys() == {1, 2}
    assert all(seconds > 0 for seconds in engine.stats().ttft_seconds.values())
