"""The self-test catches damage that no checksum sees: measured on the demonstration model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from antangel_cli.self_test import load_texts
from antangel_cli.source import EMBEDDED
from runtime.config import EngineConfig
from runtime.engine import Engine
from runtime.errors import CapacityError, ContextError
from runtime.examination.self_test import MOST_SPOKEN, REPEATED_TOKENS, Passage, Verdict, run_self_test
from runtime.pack_check import check_pack
from runtime.packing import write_pack
from runtime.request import NO_TOKEN, TokenEvent
from runtime.template import Message
from tests.runtime.damage import Damage, Planes, damaged, scaled
from tests.runtime.test_engine import prompt, scripted

BOUND = load_texts().demonstration_nats
SMALL = EngineConfig(threads=1, context=512, max_sequences=1)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("nano") / "nano"
    write_pack(EMBEDDED, place)
    return place


def weighed(path: Path, bound: float | None = BOUND) -> Verdict:
    engine = Engine.load(path, SMALL)
    encode = engine.tokenizer.encode_text
    passages = []
    for turns, answer in load_texts().exchanges:
        messages = [Message(turn.role, turn.content) for turn in turns]
        passages.append(Passage(tuple(engine.tokenizer.render(messages)), tuple(encode(answer))))
    verdict = run_self_test(engine, passages, passages[0].prompt, bound)
    engine.close()
    return verdict


def set_scales(to: int, which: Callable[[Planes], slice]) -> Damage:
    def change(planes: Planes) -> None:
        for plane in planes.scales():
            plane[which(planes)] = to

    return change


def scale(factor: float, which: Callable[[Planes], slice]) -> Damage:
    def change(planes: Planes) -> None:
        for plane in planes.scales():
            scaled(plane[which(planes)], factor)

    return change


def flip(bits: int, which: Callable[[Planes], slice]) -> Damage:
    def change(planes: Planes) -> None:
        for plane in planes.nibbles():
            plane[which(planes)] ^= bits

    return change


def scramble(share: float) -> Damage:
    def change(planes: Planes) -> None:
        random = np.random.default_rng(0)
        for plane in planes.nibbles():
            noise = random.integers(0, 256, plane.shape, dtype=np.uint8)
            plane ^= np.where(random.random(plane.shape) < share, noise, np.uint8(0))

    return change


def swap(a: Callable[[Planes], slice], b: Callable[[Planes], slice]) -> Damage:
    def change(planes: Planes) -> None:
        kept = planes.blobs[a(planes)].copy()
        planes.blobs[a(planes)] = planes.blobs[b(planes)]
        planes.blobs[b(planes)] = kept

    return change


def swap_nibbles(planes: Planes) -> None:
    for plane in planes.nibbles():
        plane[...] = (plane >> 4) | (plane << 4)


def shift(which: Callable[[Planes], slice]) -> Damage:
    def change(planes: Planes) -> None:
        content = planes.blobs[which(planes), : planes.geometry.content]
        content[...] = np.roll(content, 1, axis=1)

    return change


def scale_dense(factor: float) -> Damage:
    return lambda planes: scaled(planes.dense_scales("model.layers.1.attention.query_key_value"), factor)


def every(planes: Planes) -> slice:
    return slice(None)


def layer(number: int) -> Callable[[Planes], slice]:
    return lambda planes: planes.layer(number)


def one(blob: int = 0) -> Callable[[Planes], slice]:
    return lambda planes: slice(blob, blob + 1)


CAUGHT: dict[str, Damage] = {
    "zero scales": set_scales(0, every),
    "zero scales in the first layer": set_scales(0, layer(0)),
    "zero scales in the last layer": set_scales(0, layer(2)),
    "scales 4 times": scale(4, every),
    "scales 2 times": scale(2, every),
    "scales 1.5 times": scale(1.5, every),
    "scales halved": scale(0.5, every),
    "scales 2 times in a layer": scale(2, layer(0)),
    "scales 8 times in an expert": scale(8, one()),
    "layers swapped": swap(layer(0), layer(1)),
    "later layers swapped": swap(layer(1), layer(2)),
    "signs flipped": flip(0x88, every),
    "signs flipped in a layer": flip(0x88, layer(0)),
    "half of all bytes at random": scramble(0.5),
    "a tenth of all bytes at random": scramble(0.1),
    "nibbles swapped": swap_nibbles,
    "bytes shifted": shift(every),
    "bytes shifted in an expert": shift(one()),
    "zero scales in attention": scale_dense(0),
    "scales 2 times in attention": scale_dense(2),
}
NOT_CAUGHT: dict[str, Damage] = {
    "zero scales in an expert": set_scales(0, one()),
    "signs flipped in an expert": flip(0x88, one()),
    "experts swapped": swap(one(0), one(16)),
    "scales 1.1 times": scale(1.1, every),
    "lowest bits flipped": flip(0x11, every),
    "a hundredth of all bytes at random": scramble(0.01),
}


def test_a_healthy_model_passes_with_room(nano: Path) -> None:
    verdict = weighed(nano)
    assert verdict.sound
    assert verdict.nll is not None
    assert 0 < verdict.nll < BOUND / 2
    assert 0 < verdict.spoken <= MOST_SPOKEN
    general = weighed(nano, None)
    assert general.sound
    assert general.bound > 10 * BOUND


@pytest.mark.parametrize("experts", ["w8a8:64", "w4a8:128", "bf16"])
def test_it_passes_in_other_formats(tmp_path: Path, experts: str) -> None:
    write_pack(EMBEDDED, tmp_path / "pack", experts=experts)
    assert weighed(tmp_path / "pack").sound


@pytest.mark.parametrize("name", CAUGHT)
def test_damage_is_caught_though_the_checksums_agree(nano: Path, tmp_path: Path, name: str) -> None:
    pack = damaged(nano, tmp_path / "pack", CAUGHT[name])
    check_pack(pack)
    verdict = weighed(pack)
    assert not verdict.sound, verdict.nll
    assert all(verdict.faults)


@pytest.mark.parametrize("name", NOT_CAUGHT)
def test_what_is_not_caught_is_known(nano: Path, tmp_path: Path, name: str) -> None:
    assert weighed(damaged(nano, tmp_path / "pack", NOT_CAUGHT[name])).sound


def test_what_leaves_no_language_is_caught_without_knowing_the_model(nano: Path, tmp_path: Path) -> None:
    for n, name in enumerate(("scales 4 times", "signs flipped", "bytes shifted")):
        verdict = weighed(damaged(nano, tmp_path / str(n), CAUGHT[name]), None)
        assert not verdict.sound, (name, verdict.nll)


def test_likelihoods_are_the_same_in_chunks_and_leave_the_cache_as_it_was() -> None:
    engine = scripted()
    ids = engine.tokenizer.encode_text("A fever of three days, a cough and a rash on both arms. " * 6)
    whole = engine.log_likelihoods(ids[:5], ids[5:])
    assert len(ids) > engine.config.max_batch_tokens > 5
    assert whole.shape == (len(ids) - 5,)
    assert (whole < 0).all()
    for at in (1, 20, len(ids) - 1):
        assert torch.equal(
            engine.log_likelihoods(ids[:at], ids[at:]), engine.log_likelihoods(ids[:1], ids[1:])[at - 1 :]
        )
    engine.check_integrity()
    assert engine.stats().kv_blocks_free == engine.stats().kv_blocks_total


def test_a_text_that_does_not_fit_the_cache_is_refused() -> None:
    engine = scripted()
    with pytest.raises(CapacityError):
        engine.log_likelihoods([1], [2] * 64 * 16 + [3])
    with pytest.raises(ContextError):
        engine.log_likelihoods([1], [2] * engine.context)
    engine.check_integrity()


class Speaking:
    """An engine whose reply is given, and which finds every text likely."""

    def __init__(self, ids: list[int], text: str = "well", error: str | None = None) -> None:
        self.tokenizer = scripted().tokenizer
        self._events = [TokenEvent(0, 0, token, text) for token in ids]
        self._events.append(TokenEvent(0, 0, NO_TOKEN, "", "error" if error else "length", error=error))

    def log_likelihoods(self, prompt: list[int], text: list[int]) -> torch.Tensor:
        return torch.full((len(text),), -0.01)

    def generate(self, request: object) -> Iterator[TokenEvent]:
        yield from self._events


@pytest.mark.parametrize(
    ("engine", "fault"),
    [
        (Speaking([5] * MOST_SPOKEN), "over and over"),
        (Speaking([*range(10), *([7, 8, 9] * 16)]), "over and over"),
        (Speaking([]), "nothing"),
        (Speaking([1, 2], "a\0b"), "NUL"),
        (Speaking([1, 2], "<|reserved_token_7|>"), "reserved"),
        (Speaking([1, 2], error="the logits are no numbers"), "no numbers"),
    ],
)
def test_speech_that_is_none_is_a_fault(engine: Speaking, fault: str) -> None:
    verdict = run_self_test(engine, [Passage((1,), (2, 3))], (1,))  # type: ignore[arg-type]
    assert len(verdict.faults) == 1
    assert fault in verdict.faults[0]


def test_speech_that_repeats_a_little_is_no_fault() -> None:
    ids = [*range(MOST_SPOKEN - REPEATED_TOKENS + 1), *([7] * (REPEATED_TOKENS - 1))]
    for reply in (ids, list(range(MOST_SPOKEN)), [4, 4]):
        assert run_self_test(Speaking(reply), [Passage((1,), (2, 3))], (1,)).sound  # type: ignore[arg-type]


def test_likelihoods_that_are_no_numbers_are_a_fault() -> None:
    engine = scripted()
    engine._model.poisoned_token = 40  # type: ignore[attr-defined]
    verdict = run_self_test(engine, [Passage(prompt(), (40, 41, 42))], prompt())
    assert verdict.nll is None
    assert "not numbers" in verdict.faults[0]
    assert math.isfinite(verdict.bound)
