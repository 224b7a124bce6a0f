"""Our runtime under the workload: `python -m bench.engine PACK --threads N`."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from bench.workload import Step, serve
from kernels.ops import Restriction
from runtime.config import EngineConfig, ModelConfig
from runtime.hardware import set_threads
from runtime.inventory import EMBEDDING
from runtime.kv_cache import KVCache
from runtime.model import DecoderModel
from runtime.pack import Pack
from runtime.sequence import Batch, Span

SEQUENCES = 8
CONTEXT = 1024


class Antangel:
    """A loaded pack. Each sequence has its own run of cache blocks."""

    def __init__(self, path: Path, threads: int) -> None:
        self.engine = EngineConfig(threads=threads)
        self.config = ModelConfig.from_directory(path)
        set_threads(threads)
        self.model = DecoderModel.load(path, self.config, self.engine)
        self._blocks = CONTEXT // self.engine.block_size
        self._cache = KVCache(
            self.model.cache_layers,
            SEQUENCES * self._blocks,
            self.engine.block_size,
            self.config.num_key_value_heads,
            self.config.head_dim,
            dtype=self.model.dtype,
        )

    def reset(self, sequences: int) -> None:
        self._lengths = [0] * sequences

    def step(self, tokens: Step) -> None:
        batch = self._batch(tokens)
        hidden = self.model.forward(batch, self._cache)[batch.logit_rows]
        self.model.head(hidden, self.config.vocab_size, [Restriction()] * len(tokens), 1)

    def experts_hit(self, tokens: Step) -> list[int]:
        hit: list[int] = []
        self.model.routing_observer = lambda layer, ids: hit.append(len(ids.unique()))
        self.step(tokens)
        self.model.routing_observer = None
        return hit

    def _batch(self, tokens: Step) -> Batch:
        spans: list[Span] = []
        rows = 0
        for sequence, ids in enumerate(tokens):
            spans.append(Span(sequence, rows, len(ids), self._lengths[sequence], self._own_blocks(sequence)))
            self._lengths[sequence] += len(ids)
            rows += len(ids)
        positions = _joined(range(span.context, span.context + span.length) for span in spans)
        first_slots = _joined([span.blocks[0] * self.engine.block_size] * span.length for span in spans)
        return Batch(
            token_ids=_joined(tokens),
            positions=positions,
            slots=first_slots + positions,
            spans=tuple(spans),
            logit_rows=torch.tensor([span.last_row for span in spans]),
        )

    def _own_blocks(self, sequence: int) -> tuple[int, ...]:
        return tuple(range(sequence * self._blocks, (sequence + 1) * self._blocks))


def _joined(parts: Iterable[Iterable[int]]) -> Tensor:
    return torch.tensor([number for part in parts for number in part])


def bytes_per_token(pack: Pack) -> int:
    """Weights read for one token alone: everything but the embedding, of which it is a row, and most experts."""
    config, experts = pack.config, pack.manifest.experts
    dense = sum(entry.nbytes for entry in pack.manifest.dense if entry.name != EMBEDDING)
    embedding = next(entry for entry in pack.manifest.dense if entry.name == EMBEDDING)
    routed = len(experts.layers) * config.num_experts_per_tok * (experts.gate_up_bytes + experts.down_bytes)
    return dense + embedding.nbytes // config.vocab_size + routed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    model = Antangel(options.pack, options.threads)
    pack = Pack.open(options.pack)
    about = {
        "formats": dict(pack.manifest.formats),
        "ops": model.model.choice.names,
        "threads": options.threads,
        "bytes_per_token": bytes_per_token(pack),
        "python": platform.python_version(),
        "torch": version("torch"),
    }
    serve(model, model.config.vocab_size, about)


if __name__ == "__main__":
    main()
