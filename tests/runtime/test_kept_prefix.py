"""What one process kept of a text serves another, to the same bits; what is not of this model, or damaged, never does."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from runtime import kept_prefix
from runtime.config import ModelConfig
from runtime.engine import Engine
from runtime.errors import KeptPrefixError
from tests.runtime.test_prefix_reuse import (
    BLOCK,
    CONFIG,
    Watched,
    ask,
    cached,
    checkpoint,
    kind,
    load,
    reply,
    same_threads,
    shared_of_last,
    tokens,
)

__all__ = ["checkpoint", "kind", "same_threads"]

TEXT = tokens(70)


def written(engine: Engine, text: tuple[int, ...], path: Path, weights: str = "w") -> int:
    """The tokens that a file then holds."""
    with path.open("wb") as file:
        return engine.write_prefix(file, text, weights)


def blocks_of(engine: Engine, text: tuple[int, ...]) -> list[int]:
    assert engine._prefixes is not None
    return [known.block for known in engine._prefixes.find(text)]


@pytest.fixture
def file(checkpoint: Path, tmp_path: Path) -> Path:
    """The blocks of TEXT, by an engine that is gone."""
    engine = load(checkpoint)
    reply(engine, TEXT)
    assert written(engine, TEXT, tmp_path / "kept") == 64
    engine.close()
    return tmp_path / "kept"


@pytest.mark.parametrize("chunk", [7, 64])
def test_another_engine_draws_from_the_same_bits_as_one_that_never_ended(
    kind: tuple[Path, str], chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, dtype = kind
    lasting = load(path, dtype=dtype, max_batch_tokens=chunk)
    first = tokens(40)
    text = (*first, *reply(lasting, first, 30))
    assert written(lasting, text, tmp_path / "kept") == 64
    resumed, fresh = load(path, dtype=dtype), load(path, dtype=dtype, share_prefixes=False)
    assert resumed.read_prefix(tmp_path / "kept", text, "w") == 64
    resumed.check_integrity()
    here, there = (cached(engine, blocks_of(engine, text), 64) for engine in (resumed, lasting))
    assert torch.equal(here[0], there[0])
    assert torch.equal(here[1], there[1])
    assert here[0].abs().amin(dim=(2, 3)).gt(0).any()
    following = (*text, *tokens(9, seed=1))
    computed = [Watched(engine, monkeypatch) for engine in (resumed, lasting, fresh)]
    answers = [reply(engine, following, 20) for engine in (resumed, lasting, fresh)]
    assert answers[0] == answers[1] == answers[2]
    for others in computed[1:]:
        assert all(map(torch.equal, computed[0].hidden, others.hidden))
    assert shared_of_last(resumed) == shared_of_last(lasting) == 64
    assert resumed.stats().prompt_tokens == len(following) - 64


PROCESS = """
import sys
from pathlib import Path
from tests.runtime.test_kept_prefix import TEXT, load, reply, written
engine = load(Path(sys.argv[1]))
reply(engine, TEXT)
print(written(engine, TEXT, Path(sys.argv[2])))
"""


def test_a_process_that_ended_is_gone_on_with(checkpoint: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, str(checkpoint), str(tmp_path / "kept")], capture_output=True, text=True
    )
    assert done.stdout == "64\n", done.stderr
    engine, fresh = load(checkpoint), load(checkpoint, share_prefixes=False)
    assert engine.read_prefix(tmp_path / "kept", TEXT, "w") == 64
    assert reply(engine, TEXT, 20) == reply(fresh, TEXT, 20)
    assert shared_of_last(engine) == 64


def test_other_readers_of_safetensors_read_it(file: Path) -> None:
    with safe_open(file, "pt") as found:
        assert found.metadata()["format"] == "antangel.kept-prefix/1"
        assert found.get_tensor("tokens").tolist() == list(TEXT[:64])
        names = [f"{part}.{layer}" for layer in range(3) for part in ("keys", "values")]
        assert sorted(found.keys()) == sorted(["sha256", "tokens", *names])
        assert found.get_tensor("keys.2").shape == (4, *found.get_tensor("values.2").mT.shape[1:])


def damaged(data: bytes, how: str) -> bytes:
    harmed = bytearray(data)
    at = {
        "header": 30,
        "first byte": 0,
        "tokens": 8 + int.from_bytes(data[:8], "little"),
        "data": len(data) * 2 // 3,
        "hash": -1,
    }
    if how in at:
        harmed[at[how]] ^= 1
        return bytes(harmed)
    return {"cut": data[:-1], "half": data[: len(data) // 2], "empty": b"", "longer": data + b"\0", "text": b"{}" * 40}[
        how
    ]


@pytest.mark.parametrize(
    "how", ["header", "first byte", "tokens", "data", "hash", "cut", "half", "empty", "longer", "text"]
)
def test_a_damaged_file_is_refused_and_leaves_no_trace(checkpoint: Path, file: Path, how: str) -> None:
    file.write_bytes(damaged(file.read_bytes(), how))
    engine, fresh = load(checkpoint), load(checkpoint, share_prefixes=False)
    with pytest.raises(KeptPrefixError):
        engine.read_prefix(file, TEXT, "w")
    engine.check_integrity()
    assert blocks_of(engine, TEXT) == []
    assert not engine._cache.keys.any()
    assert reply(engine, TEXT) == reply(fresh, TEXT)


@pytest.mark.parametrize("place", range(0, 4_000, 61))
def test_no_changed_bit_goes_unseen(checkpoint: Path, file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place * len(data) // 4_000] ^= 1 << place % 8
    file.write_bytes(data)
    with pytest.raises(KeptPrefixError):
        shared_engine(checkpoint).read_prefix(file, TEXT, "w")


ENGINES: dict[Path, Engine] = {}


def shared_engine(checkpoint: Path) -> Engine:
    """One engine that never takes anything."""
    if checkpoint not in ENGINES:
        ENGINES[checkpoint] = load(checkpoint)
    return ENGINES[checkpoint]


@pytest.mark.parametrize(
    "change", [lambda shape: [shape[0], shape[2], shape[1], shape[3]], lambda shape: [*shape[:3], 0]]
)
def test_blocks_of_another_shape_are_refused_even_where_the_hash_is_right(
    checkpoint: Path, file: Path, change: Callable[[list[int]], list[int]]
) -> None:
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    shape = header["keys.1"]["shape"]
    header["keys.1"]["shape"] = change(shape)
    if 0 in header["keys.1"]["shape"]:
        # Its bytes are another tensor's.
        header["keys.1"]["data_offsets"], header["rest"] = [0, 0], header["keys.1"] | {"shape": shape}
    text = json.dumps(header).encode()
    harmed = len(text).to_bytes(8, "little") + text + data[end:-32]
    file.write_bytes(harmed + hashlib.sha256(harmed).digest())
    engine = load(checkpoint)
    with pytest.raises(KeptPrefixError):
        engine.read_prefix(file, TEXT, "w")
    engine.check_integrity()
    assert blocks_of(engine, TEXT) == []


def renamed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(engine._model), "backend", property(lambda self: "other kernels"))


def turned(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    config: ModelConfig = engine.model_config
    monkeypatch.setattr(engine, "model_config", replace(config, rope_theta=config.rope_theta * 2))


def halved(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine._cache, "keys", engine._cache.keys.bfloat16())


def moved(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine._cache, "keys", engine._cache.keys.to("meta"))


CHANGED: dict[str, Callable[[Engine, pytest.MonkeyPatch], None]] = {
    "backend": renamed, "rope": turned, "number type": halved, "device": moved,
}  # fmt: skip


@pytest.mark.parametrize("how", CHANGED)
def test_what_another_model_computed_is_refused_as_such(
    checkpoint: Path, file: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(checkpoint)
    CHANGED[how](engine, monkeypatch)
    with pytest.raises(KeptPrefixError) as caught:
        engine.read_prefix(file, TEXT, "w")
    assert caught.value.foreign


@pytest.mark.parametrize(
    ("weights", "options"), [("v", {}), ("w", {"block_size": 32}), ("w", {"share_prefixes": False})]
)
def test_other_weights_and_other_blocks_are_refused_as_such(
    checkpoint: Path, file: Path, weights: str, options: dict[str, Any]
) -> None:
    with pytest.raises(KeptPrefixError) as caught:
        load(checkpoint, **options).read_prefix(file, TEXT, weights)
    assert caught.value.foreign


@pytest.mark.parametrize("text", [TEXT[:63], (*TEXT[:63], 499, *TEXT[64:]), (1, *TEXT[1:])])
def test_another_text_takes_nothing(checkpoint: Path, file: Path, text: tuple[int, ...]) -> None:
    with pytest.raises(KeptPrefixError) as caught:
        shared_engine(checkpoint).read_prefix(file, text, "w")
    assert not caught.value.foreign


def test_no_file_is_no_error_of_another_kind(checkpoint: Path, tmp_path: Path) -> None:
    for place in (tmp_path / "none", tmp_path):
        with pytest.raises(KeptPrefixError):
            shared_engine(checkpoint).read_prefix(place, TEXT, "w")


def test_what_does_not_fit_takes_nothing_from_a_sequence_that_runs(checkpoint: Path, file: Path) -> None:
    """Of ten blocks eight are owned: the beginning of the text comes into the two that are free."""
    engine, fresh = load(checkpoint, kv_blocks=10), load(checkpoint, share_prefixes=False)
    other = tokens(7 * BLOCK + 3, seed=5)
    number = engine.submit(ask(other, 8))
    while not (events := engine.step()):
        pass
    assert len(engine._scheduler[number].blocks) == 8
    assert engine.read_prefix(file, TEXT, "w") == 32
    engine.check_integrity()
    assert engine._allocator.free_count == 2
    while engine.has_work:
        events += engine.step()
        engine.check_integrity()
    assert tuple(event.token_id for event in events if event.token_id >= 0) == reply(fresh, other, 8)
    assert engine.stats().preemptions == 0
    assert reply(engine, TEXT) == reply(fresh, TEXT)
    assert shared_of_last(engine) == 32


def test_what_is_kept_already_is_shared_and_not_had_twice(checkpoint: Path, file: Path) -> None:
    engine = load(checkpoint, kv_blocks=6)
    reply(engine, TEXT[:34])
    before = blocks_of(engine, TEXT)
    assert engine.read_prefix(file, TEXT, "w") == 64
    engine.check_integrity()
    assert blocks_of(engine, TEXT)[:2] == before
    assert len(blocks_of(engine, TEXT)) == 4
    computing = load(checkpoint)
    reply(computing, TEXT)
    here, there = (cached(one, blocks_of(one, TEXT), 64) for one in (engine, computing))
    assert torch.equal(here[0], there[0])
    assert torch.equal(here[1], there[1])
    assert engine.read_prefix(file, TEXT, "w") == 64
    assert engine._allocator.free_count == 6


def test_what_was_taken_over_makes_room_like_all_that_is_kept(checkpoint: Path, file: Path) -> None:
    engine, fresh = load(checkpoint, kv_blocks=6), load(checkpoint, share_prefixes=False)
    engine.read_prefix(file, TEXT, "w")
    whole = tokens(6 * BLOCK - 4, seed=9)
    assert reply(engine, whole) == reply(fresh, whole)
    assert engine.stats().preemptions == 0
    assert blocks_of(engine, TEXT) == []


def test_of_a_long_text_the_beginning_is_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(checkpoint)
    reply(engine, TEXT)
    block_bytes = engine._cache.keys[:3, 0].nbytes * 2
    monkeypatch.setattr(kept_prefix, "MOST_BYTES", 3 * block_bytes - 1)
    assert written(engine, TEXT, tmp_path / "kept") == 2 * BLOCK
    assert 2 * block_bytes < (tmp_path / "kept").stat().st_size < 2 * block_bytes + 8_000
    assert load(checkpoint).read_prefix(tmp_path / "kept", TEXT, "w") == 2 * BLOCK


def test_nothing_is_written_where_nothing_is_kept(checkpoint: Path) -> None:
    engine, alone = load(checkpoint), load(checkpoint, share_prefixes=False)
    reply(engine, tokens(BLOCK - 4))
    reply(alone, TEXT)
    for one in (engine, alone):
        file = io.BytesIO()
        assert one.write_prefix(file, TEXT, "w") == 0
        assert file.getvalue() == b""


def test_what_other_experts_computed_is_neither_written_nor_read(checkpoint: Path, file: Path, tmp_path: Path) -> None:
    engine = load(checkpoint)
    engine.replace_routing(lambda layer, ids: ids * 0 + ids.new_tensor([0, 1]))
    reply(engine, TEXT)
    assert written(engine, TEXT, tmp_path / "other") == 0
    with pytest.raises(KeptPrefixError):
        engine.read_prefix(file, TEXT, "w")


def test_a_drafting_engine_writes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    drafting = Engine.load(checkpoint, CONFIG, measure_mtp=True)
    reply(drafting, TEXT)
    assert written(drafting, TEXT, tmp_path / "kept") == 0
