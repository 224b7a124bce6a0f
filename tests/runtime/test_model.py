"""The decoder as a whole: the same bits alone and in company, whole and in chunks; bf16; what it tells of itself."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.registry import implementations
from runtime.config import EngineConfig, ModelConfig
from runtime.hardware import set_threads
from runtime.model import DecoderModel
from runtime.weights import open_weights
from tests.runtime.model_steps import make_batch, make_cache, run
from tests.runtime.tiny import make_tiny_checkpoint


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def load(directory: Path, dtype: str = "float32") -> DecoderModel:
    return DecoderModel.load(directory, ModelConfig.from_directory(directory), EngineConfig(dtype=dtype))


def tokens(count: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 800, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def in_chunks(model: DecoderModel, ids: list[int], cuts: list[int], block_size: int = 64) -> Tensor:
    cache = make_cache(model, block_size=block_size)
    edges = [0, *cuts, len(ids)]
    parts = [run(model, cache, [(0, ids[a:b], a)]) for a, b in itertools.pairwise(edges)]
    return torch.cat(parts)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_chunks_change_no_bit(directory: Path, dtype: str, threads: int) -> None:
    set_threads(threads)
    try:
        model, ids = load(directory, dtype), tokens(90)
        whole = in_chunks(model, ids, [])
        for cuts in ([1], [16, 32], [63, 64, 65], [7, 30, 71], list(range(60, 90))):
            assert torch.equal(in_chunks(model, ids, cuts), whole), cuts
    finally:
        set_threads(None)


def test_every_implementation_gives_the_same_bits(directory: Path) -> None:
    config, ids = ModelConfig.from_directory(directory), tokens(70)
    names = [i.name for i in implementations("experts") if i.supports(torch.device("cpu"), torch.float32, None) is None]
    assert "torch" in names
    models = [DecoderModel.load(directory, config, EngineConfig(kernels=name)) for name in names]
    first, *others = [in_chunks(model, ids, [40, 41]) for model in models]
    assert all(torch.equal(other, first) for other in others)


def test_decoding_equals_prefill_from_the_first_token(directory: Path) -> None:
    model, ids = load(directory), tokens(40)
    assert torch.equal(in_chunks(model, ids, list(range(1, 40))), in_chunks(model, ids, []))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_company_changes_no_bit(directory: Path, dtype: str) -> None:
    model = load(directory, dtype)
    texts = [tokens(count, seed) for seed, count in enumerate((70, 33, 1, 18))]
    alone = [run(model, make_cache(model), [(i, ids, 0)]) for i, ids in enumerate(texts)]
    for order in ([0, 1, 2, 3], [2, 3, 0, 1], [3, 1]):
        together = run(model, make_cache(model), [(i, texts[i], 0) for i in order])
        parts = torch.split(together, [len(texts[i]) for i in order])
        assert all(torch.equal(part, alone[i]) for part, i in zip(parts, order, strict=True))


def test_decoding_beside_a_prefill_changes_no_bit(directory: Path) -> None:
    model, first, second = load(directory), tokens(50), tokens(45, seed=1)
    whole = in_chunks(model, first, [])
    cache = make_cache(model)
    run(model, cache, [(0, first[:-1], 0)])
    mixed = run(model, cache, [(1, second, 0), (0, first[-1:], 49)])
    assert torch.equal(mixed[-1], whole[-1])


def test_logits_rows_are_independent(directory: Path) -> None:
    model = load(directory)
    hidden = model.forward(make_batch([(0, tokens(20), 0)]), make_cache(model))
    whole = model.logits(hidden)
    assert whole.dtype == torch.float32
    for row in (0, 7, 19):
        assert torch.equal(model.logits(hidden[row : row + 1])[0], whole[row])


def test_bfloat16_is_near_float32(directory: Path) -> None:
    ids = tokens(30)
    wide, narrow = (in_chunks(load(directory, dtype), ids, []) for dtype in ("float32", "bfloat16"))
    assert not torch.equal(wide, narrow)
    alike = F.cosine_similarity(wide, narrow)
    # A row whose router stood near a tie goes to another expert: few may.
    assert alike.median() > 0.999
    assert (alike > 0.99).sum() >= 27


def test_a_longer_past_matters(directory: Path) -> None:
    """The invariance above proves nothing for a model that ignores its cache."""
    model, ids = load(directory), tokens(80)
    other = [ids[0] + 1, *ids[1:]]
    assert not torch.equal(in_chunks(model, ids, [79])[-1], in_chunks(model, other, [79])[-1])


def test_observer_sees_every_expert_layer(directory: Path) -> None:
    model = load(directory)
    seen: list[tuple[int, tuple[int, ...]]] = []
    model.routing_observer = lambda layer, ids: seen.append((layer, tuple(ids.shape)))
    run(model, make_cache(model), [(0, tokens(5), 0)])
    assert seen == [(1, (5, 2)), (2, (5, 2))]


def test_what_it_tells_of_itself(directory: Path) -> None:
    done: list[tuple[int, int]] = []
    config = ModelConfig.from_directory(directory)
    model = DecoderModel.load(directory, config, EngineConfig(dtype="bfloat16"), lambda *step: done.append(step))
    assert [step for step, _ in done] == sorted({step for step, _ in done})
    assert len(done) == 4
    sizes = open_weights(directory, config).sizes
    assert done[-1] == (sizes.dense + sizes.experts.nbytes,) * 2
    assert model.has_mtp
    assert model.cache_layers == 4
    assert (model.device.type, model.dtype) == ("cpu", torch.bfloat16)
    stored = (directory / "model.safetensors").stat().st_size
    assert stored / 2 <= model.weight_bytes * 1.05
    assert model.weight_bytes < stored
    assert set(model.choice.names) >= {"linear", "route", "experts"}


def test_norm_head(tmp_path: Path) -> None:
    """Older checkpoints normalise the head's columns."""
    plain = load(make_tiny_checkpoint(tmp_path / "plain"))
    normed = load(make_tiny_checkpoint(tmp_path / "normed", norm_head=True))
    one = torch.zeros(1, 128)
    one[0, 5] = 1.0
    assert normed.logits(one).norm().item() == pytest.approx(1.0, abs=1e-5)
    assert plain.logits(one).norm().item() != pytest.approx(1.0, abs=1e-2)
