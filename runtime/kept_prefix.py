"""The blocks that are kept of a text, in a file: another process takes them back and computes only what comes after.

The file is safetensors: `tokens` [T]; `keys.L` [T / block_size, G, D, block_size] and `values.L`, transposed, for each
layer; and last `sha256`, the hash of all bytes before it. Its metadata say which model computed the blocks. It is
written a layer at a time, so that it takes no second copy of the cache; any reader of safetensors reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from runtime.config import ModelConfig
from runtime.errors import KeptPrefixError
from runtime.kv_cache import BlockAllocator, KVCache
from runtime.prefixes import ROOT, PrefixIndex

FORMAT = "antangel.kept-prefix/1"

MOST_BYTES = 256 << 20
"""Keys and values in a file: what a slow disk of 130 MB/s writes in 2 s. Of a longer text the beginning is written."""

HASH_BYTES = 32
_CHUNK = 1 << 20
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int32: "I32", torch.uint8: "U8"}


@dataclass(frozen=True)
class KeptPrefix:
    """Writes and reads the blocks of one engine. `model` says in one line whose keys and values they are."""

    cache: KVCache
    allocator: BlockAllocator
    index: PrefixIndex
    layers: int
    model: str

    def write(self, file: BinaryIO, token_ids: Sequence[int]) -> int:
        """Writes the kept blocks that a text begins with; how many tokens they hold, 0 and no byte for none."""
        blocks = [known.block for known in self.index.find(token_ids)[: self._most_blocks]]
        if not blocks:
            return 0
        tokens = torch.tensor(token_ids[: len(blocks) * self.index.block_size], dtype=torch.int32)
        shapes = {"tokens": tokens, **self._shapes(len(blocks))}
        digest = hashlib.sha256()
        file.write(header := _header(shapes, {"format": FORMAT, "model": self.model}))
        digest.update(header)
        for data in self._parts(tokens, blocks):
            file.write(data)
            digest.update(data)
        file.write(digest.digest())
        return len(tokens)

    def read(self, path: Path, token_ids: Sequence[int]) -> int:
        """Takes over the blocks of a file that a text begins with, as many as can be had; the tokens they hold.

        They count as free until a sequence shares them. Raises KeptPrefixError, and then nothing is taken over.
        """
        try:
            with safe_open(path, "pt") as file:
                self._require_model(file.metadata() or {})
                tokens = self._tokens(file, token_ids)
                _require_whole(path)
                return self._adopt(file, tokens)
        except (OSError, SafetensorError) as error:
            raise KeptPrefixError("it is damaged or cannot be read") from error

    @property
    def _most_blocks(self) -> int:
        one = sum(part.nbytes for part in self._shapes(1).values())
        return MOST_BYTES // one

    def _shapes(self, blocks: int) -> dict[str, Tensor]:
        """Tensors without memory, of the shapes that `blocks` blocks have in a file."""
        kinds = {"keys": self.cache.keys, "values": self.cache.values}
        return {
            f"{kind}.{layer}": whole.new_empty((blocks, *whole.shape[2:]), device="meta")
            for layer in range(self.layers)
            for kind, whole in kinds.items()
        }

    def _parts(self, tokens: Tensor, blocks: Sequence[int]) -> Iterator[memoryview]:
        """The bytes of each tensor, in the order of `_shapes`."""
        yield _bytes(tokens)
        chosen = torch.tensor(blocks, device=self.cache.keys.device)
        for layer in self.cache.layers[: self.layers]:
            yield from (_bytes(whole.index_select(0, chosen)) for whole in layer)

    def _require_model(self, metadata: Mapping[str, str]) -> None:
        if (metadata.get("format"), metadata.get("model")) != (FORMAT, self.model):
            raise KeptPrefixError("it is of another model, or of other number types", foreign=True)

    def _tokens(self, file: Any, token_ids: Sequence[int]) -> list[int]:
        tokens: list[int] = file.get_tensor("tokens").flatten().tolist()
        if not tokens or len(tokens) % self.index.block_size or tokens != list(token_ids[: len(tokens)]):
            raise KeptPrefixError("it is of another text")
        return tokens

    def _adopt(self, file: Any, tokens: list[int]) -> int:
        size = self.index.block_size
        known = self.index.find((*tokens, 0))
        blocks = [one.block for one in known]
        # Owned meanwhile, so that none makes room for another.
        self.allocator.share(blocks)
        try:
            missing = len(tokens) // size - len(known)
            blocks += self.allocator.allocate(min(missing, self.allocator.free_count))
            self._fill(file, len(known), blocks[len(known) :])
            number = known[-1].number if known else ROOT
            for i in range(len(known), len(blocks)):
                number = self.index.record(number, tokens[i * size : (i + 1) * size], blocks[i])
        finally:
            self.allocator.free(blocks)
        return len(blocks) * size

    def _fill(self, file: Any, start: int, blocks: Sequence[int]) -> None:
        """Copies the blocks of a file from `start` on to where they belong in the cache."""
        device = self.cache.keys.device
        chosen = torch.tensor(blocks, dtype=torch.int64, device=device)
        for i, (keys, values) in enumerate(self.cache.layers[: self.layers]):
            for kind, whole in (("keys", keys), ("values", values)):
                part = file.get_slice(f"{kind}.{i}")[start : start + len(blocks)]
                if part.dtype != whole.dtype or part.shape != (len(blocks), *whole.shape[1:]):
                    raise KeptPrefixError("its blocks have another shape")
                whole.index_copy_(0, chosen, part.to(device))


def described(weights: str, config: ModelConfig, cache: KVCache, layers: int, backend: str) -> str:
    """All that keys and values depend on besides the tokens, as one line. `weights` tells weights and program apart."""
    return json.dumps(
        {
            "weights": weights,
            "config": asdict(config),
            "layers": layers,
            "block_size": cache.block_size,
            "dtype": str(cache.keys.dtype),
            "device": cache.keys.device.type,
            "backend": backend,
        },
        sort_keys=True,
    )


def _header(shapes: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """What a safetensors file begins with: the length of a JSON object, and it; data begins at a multiple of 8."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, part in {**shapes, "sha256": torch.empty(HASH_BYTES, dtype=torch.uint8)}.items():
        start, end = end, end + part.nbytes
        entries[name] = {"dtype": _DTYPES[part.dtype], "shape": list(part.shape), "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes(part: Tensor) -> memoryview:
    return part.cpu().flatten().view(torch.uint8).numpy().data


def _require_whole(path: Path) -> None:
    """Reads a file through and holds it against the hash that it ends with. Raises KeptPrefixError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size - HASH_BYTES
        while left > 0 and (data := file.read(min(left, _CHUNK))):
            digest.update(data)
            left -= len(data)
        if left or file.read() != digest.digest():
            raise KeptPrefixError("it is damaged")
