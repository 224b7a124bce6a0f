"""A bf16 checkpoint of random weights and any number of layers, in shards, for measuring how it is packed.

    python -m bench.make_checkpoint DIR [--layers N] [--shard-gb G] [--shape config.json]

It has no tokenizer: it is there to be packed and mapped, not to be asked.
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.checkpoint import TensorSpec, expected_tensors
from runtime.config import ModelConfig
from runtime.measuring.random_weights import EMBEDDING_DEVIATION, WEIGHT_DEVIATION
from runtime.shards import INDEX

SHAPE = Path(__file__).with_name("shape.json")

# Weights are runs of this noise, each from another place: drawing every one would take minutes.
NOISE = 1 << 26


class Noise:
    """Random weights by shape."""

    def __init__(self, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._noise = torch.randn(NOISE, generator=self._generator).to(torch.bfloat16)

    def bytes_of(self, spec: TensorSpec) -> Iterator[memoryview]:
        if spec.float32:
            yield torch.zeros(spec.shape).numpy().view("uint8").data
        elif "norm" in spec.name.rsplit(".", 2)[-2]:
            yield _bytes(torch.ones(spec.shape, dtype=torch.bfloat16))
        else:
            deviation = EMBEDDING_DEVIATION if "embeddings" in spec.name else WEIGHT_DEVIATION
            yield from self._weights(spec.elements, deviation)

    def _weights(self, count: int, deviation: float) -> Iterator[memoryview]:
        while count:
            start = int(torch.randint(NOISE // 2, (), generator=self._generator))
            run = self._noise[start : start + min(count, NOISE // 2)]
            yield _bytes(run * deviation)
            count -= len(run)


def _bytes(values: Tensor) -> memoryview:
    return values.view(torch.uint8).numpy().data


def make_checkpoint(directory: Path, shape: dict[str, Any], shard_bytes: int) -> int:
    """Writes the config, the shards and their index; returns the bytes of all weights."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(shape, indent=2), encoding="utf-8")
    specs = list(expected_tensors(ModelConfig.from_dict(shape)))
    shards = _sharded(specs, shard_bytes)
    noise = Noise()
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_shard(directory / name, shard, noise)
        weight_map |= {spec.name: name for spec in shard}
        print(f"{name} of {len(shards)}", flush=True)
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    return sum(map(_size, specs))


def _sharded(specs: list[TensorSpec], shard_bytes: int) -> list[list[TensorSpec]]:
    shards: list[list[TensorSpec]] = [[]]
    filled = 0
    for spec in specs:
        if shards[-1] and filled + _size(spec) > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(spec)
        filled += _size(spec)
    return shards


def _write_shard(path: Path, specs: list[TensorSpec], noise: Noise) -> None:
    header: dict[str, Any] = {}
    end = 0
    for spec in specs:
        start, end = end, end + _size(spec)
        dtype = "F32" if spec.float32 else "BF16"
        header[spec.name] = {"dtype": dtype, "shape": list(spec.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for spec in specs:
            for piece in noise.bytes_of(spec):
                file.write(piece)


def _size(spec: TensorSpec) -> int:
    return spec.elements * (4 if spec.float32 else 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", type=int, help="of the decoder; the shape's own unless told otherwise")
    parser.add_argument("--shard-gb", type=float, default=1.5)
    parser.add_argument("--shape", type=Path, default=SHAPE, help="a config.json")
    arguments = parser.parse_args()
    shape = json.loads(arguments.shape.read_text(encoding="utf-8"))
    if arguments.layers is not None:
        shape["num_hidden_layers"] = arguments.layers
    total = make_checkpoint(arguments.directory, shape, int(arguments.shard_gb * 1e9))
    print(f"{total / 1e9:.2f} GB in {arguments.directory}")


if __name__ == "__main__":
    main()
