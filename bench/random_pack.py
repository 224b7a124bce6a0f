"""A pack of random weights, made directly in its formats: no checkpoint of floats is ever written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from bench.random_weights import EMBEDDING_DEVIATION, Bytes, integers, nibble_pairs, normal, scales
from kernels.formats import Format
from runtime.config import ModelConfig
from runtime.inventory import EMBEDDING, dense_matrices, expert_layers, plain_tensors
from runtime.pack_check import file_hash, file_parts, hash_files
from runtime.pack_layout import DenseEntry, ExpertGeometry, place
from runtime.pack_manifest import DENSE, EXPERTS, MANIFEST, FileEntry, Manifest

BFLOAT16, FLOAT32 = Format.parse("bf16"), Format.parse("fp32")
CONFIG = "config.json"


def write_random_pack(
    shape: Path, directory: Path, *, experts: Format, dense: Format, like: Path | None = None
) -> None:
    """Writes a pack of the model that a config.json describes; `like` is one to share its file of experts with.

    Weights are symmetric, of 4 or 8 bits, with scales in bf16; their mean is zero.
    """
    config, random = ModelConfig.from_dict(json.loads(shape.read_text(encoding="utf-8"))), np.random.default_rng(2)
    directory.mkdir(parents=True)
    shutil.copy(shape, directory / CONFIG)
    entries = _dense_entries(config, dense)
    _write(directory / DENSE, (_dense_bytes(random, entry) for entry in entries))
    geometry = ExpertGeometry(
        expert_layers(config), config.num_experts, experts, experts, config.hidden_size, config.moe_intermediate_size
    )
    if like is None:
        _write(directory / EXPERTS, (_blob(random, geometry) for _ in range(geometry.blobs)))
    else:
        os.link(like / EXPERTS, directory / EXPERTS)
    _write_manifest(directory, entries, geometry, dense)


def _dense_entries(config: ModelConfig, format: Format) -> tuple[DenseEntry, ...]:
    plain = [
        (tensor.name, False, FLOAT32 if tensor.name.endswith("expert_bias") else BFLOAT16, tensor.shape)
        for tensor in plain_tensors(config)
    ]
    matrices = [(spec.name, True, format, (spec.rows, spec.columns)) for spec in dense_matrices(config)]
    return place([*plain, *matrices])


def _dense_bytes(random: np.random.Generator, entry: DenseEntry) -> Bytes:
    """An entry and the padding behind it."""
    padded = np.zeros(entry.end - entry.offset, dtype=np.uint8)
    content = _matrix(random, entry.format, *entry.shape) if entry.is_matrix else _plain(random, entry)
    padded[: len(content)] = content
    return padded


def _plain(random: np.random.Generator, entry: DenseEntry) -> Bytes:
    if entry.name.endswith("expert_bias"):
        return np.zeros(entry.nbytes, dtype=np.uint8)
    if entry.name == EMBEDDING:
        return _bfloat16(normal(random, entry.shape, EMBEDDING_DEVIATION))
    if entry.name.endswith(".mlp.gate.weight"):
        return _bfloat16(normal(random, entry.shape))
    return _bfloat16(np.ones(entry.shape, dtype=np.float32))


def _blob(random: np.random.Generator, geometry: ExpertGeometry) -> Bytes:
    blob = np.zeros(geometry.blob_bytes, dtype=np.uint8)
    blob[: geometry.gate_up_bytes] = _matrix(random, geometry.gate_up, 2 * geometry.inner, geometry.hidden)
    blob[geometry.down_offset : geometry.content] = _matrix(random, geometry.down, geometry.hidden, geometry.inner)
    return blob


def _matrix(random: np.random.Generator, format: Format, rows: int, columns: int) -> Bytes:
    data = np.zeros(format.nbytes(rows, columns), dtype=np.uint8)
    weights = rows * columns * format.bits // 8
    data[:weights] = nibble_pairs(random, weights) if format.bits == 4 else integers(random, weights)
    plane = _bfloat16(scales(random, rows * columns // format.group, bits=format.bits))
    start = format.planes(rows, columns).scales
    data[start : start + len(plane)] = plane
    return data


def _bfloat16(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Bytes:
    return torch.from_numpy(values).to(torch.bfloat16).flatten().view(torch.uint8).numpy()


def _write(path: Path, parts: Iterator[Bytes]) -> None:
    with path.open("wb") as file:
        for part in parts:
            file.write(part.data)


def _write_manifest(directory: Path, entries: tuple[DenseEntry, ...], geometry: ExpertGeometry, dense: Format) -> None:
    formats = {"experts": str(geometry.gate_up), "dense": str(dense)}
    hashes = hash_files(directory, file_parts(entries, geometry))
    whole = {name: file.whole for name, file in hashes.items()} | {CONFIG: file_hash(directory / CONFIG)}
    manifest = Manifest(
        source={"kind": "random weights"},
        requested=formats,
        formats=formats,
        mtp_layers=0,
        dense=entries,
        experts=geometry,
        checksums={name: file.parts for name, file in hashes.items()},
        files={name: FileEntry((directory / name).stat().st_size, sha256) for name, sha256 in whole.items()},
        errors={},
    )
    (directory / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
