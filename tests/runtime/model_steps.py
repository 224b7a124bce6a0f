"""Running a DecoderModel by hand in tests: batches of chosen chunks over a cache with scattered blocks."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from runtime.config import EngineConfig, ModelConfig
from runtime.kv_cache import KVCache
from runtime.model import DecoderModel
from runtime.sequence import Batch, Span

BLOCKS_PER_SEQUENCE = 8

# sequence id, its tokens in this step, tokens already cached
Chunk = tuple[int, list[int], int]


def make_cache(model: DecoderModel, sequences: int = 4, block_size: int = 64) -> KVCache:
    config = model.config
    return KVCache(
        model.cache_layers,
        sequences * BLOCKS_PER_SEQUENCE,
        block_size,
        config.num_key_value_heads,
        config.head_dim,
        dtype=model.dtype,
    )


def make_batch(chunks: list[Chunk], block_size: int = 64, sequences: int = 4) -> Batch:
    """Blocks of a sequence are scattered and descending, so that no test passes by their being neighbours."""
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    spans: list[Span] = []
    for sequence, ids, context in chunks:
        table = [(BLOCKS_PER_SEQUENCE - 1 - i) * sequences + sequence for i in range(BLOCKS_PER_SEQUENCE)]
        places = range(context, context + len(ids))
        used = tuple(table[: places[-1] // block_size + 1])
        spans.append(Span(sequence, len(tokens), len(ids), context, used))
        tokens += ids
        positions += places
        slots += [table[p // block_size] * block_size + p % block_size for p in places]
    rows = [span.start + span.length - 1 for span in spans]
    as_tensor = [torch.tensor(values) for values in (tokens, positions, slots)]
    return Batch(*as_tensor, tuple(spans), torch.tensor(rows))


def run(model: DecoderModel, cache: KVCache, chunks: list[Chunk]) -> Tensor:
    """Logits of every row of one step."""
    return model.logits(model.forward(make_batch(chunks, cache.block_size), cache))


def greedy_tokens(model: DecoderModel, prompt: list[int], count: int) -> list[int]:
    """Prefill at once, then one token a step."""
    cache = make_cache(model)
    ids = list(prompt)
    logits = run(model, cache, [(0, ids, 0)])
    for _ in range(count):
        ids.append(int(logits[-1].argmax()))
        logits = run(model, cache, [(0, ids[-1:], len(ids) - 1)])
    return ids[len(prompt) :]


def save_checkpoint(path: Path, weights: dict[str, Tensor]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path / "model.safetensors")
    return path


def load(path: Path, config: ModelConfig, dtype: str = "float32") -> DecoderModel:
    return DecoderModel.load(path, config, EngineConfig(dtype=dtype))
