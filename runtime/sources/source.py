"""A checkpoint to be packed, of any source format: everything that its config calls for, found and checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from runtime.checkpoint import TensorSpec, expected_tensors, extra_problems, refuse, tensor_problem, usable_tensors
from runtime.config import ModelConfig
from runtime.inventory import MatrixSpec, head_tensor, plain_tensors
from runtime.shards import INDEX, StoredTensor, read_headers
from runtime.sources import block_fp8, compressed_tensors, floats, gptq
from runtime.sources.weight import FloatWeight, Settings, Stored, Weight, unsupported

# Asked in this order; a format is told by the tensors there are, as no list in a config is reliable.
FORMATS = (compressed_tensors.claim, gptq.claim, block_fp8.claim, floats.claim)


@dataclass(frozen=True)
class Source:
    """An open checkpoint. `identity` changes with its config, its index and the files themselves."""

    directory: Path
    config: ModelConfig
    raw_config: Mapping[str, Any]
    plain: Mapping[str, StoredTensor]
    weights: Mapping[str, Weight]
    identity: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Raises CheckpointError for what is missing, damaged, too much or of no use, or ConfigError."""
        directory = Path(path).absolute()
        config = ModelConfig.from_directory(directory)
        raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        stored = read_headers(directory)
        config, usable = usable_tensors(config, stored)
        plain_names = {tensor.name for tensor in plain_tensors(config)}
        plain, weights, problems = _claimed(config, plain_names, usable, raw.get("quantization_config") or {})
        used = {tensor.name for weight in weights.values() for tensor in weight.stored}
        refuse(directory, problems + extra_problems(used | plain.keys(), usable))
        _require_foldable(config, weights)
        return cls(directory, config, raw, plain, weights, _identity(directory, stored, weights))

    def parts(self, matrix: MatrixSpec) -> tuple[Weight, ...]:
        """The weights that make up a matrix, from top to bottom."""
        return tuple(self.weights[name] for name in matrix.parts)


def _claimed(
    config: ModelConfig, plain_names: set[str], stored: Stored, settings: Settings
) -> tuple[dict[str, StoredTensor], dict[str, Weight], list[str]]:
    plain: dict[str, StoredTensor] = {}
    weights: dict[str, Weight] = {}
    problems: list[str] = []
    for spec in expected_tensors(config):
        is_plain, weight = spec.name in plain_names, None
        if not is_plain or spec.name == head_tensor(config):
            weight = _claim(spec, stored, settings)
        if weight is not None:
            weights[spec.name] = weight
        elif problem := tensor_problem(spec, stored.get(spec.name)):
            problems.append(problem)
        if is_plain and spec.name in stored:
            plain[spec.name] = stored[spec.name]
    return plain, weights, problems


def _claim(spec: TensorSpec, stored: Stored, settings: Settings) -> Weight | None:
    return next((weight for claim in FORMATS if (weight := claim(spec, stored, settings)) is not None), None)


def _require_foldable(config: ModelConfig, weights: Mapping[str, Weight]) -> None:
    head = weights[head_tensor(config)]
    if config.norm_head and not isinstance(head, FloatWeight):
        raise unsupported(head.spec, f"norm_head scales its columns, and it is {head.kind}")


def _identity(directory: Path, stored: Stored, weights: Mapping[str, Weight]) -> dict[str, Any]:
    shards = sorted({tensor.shard for tensor in stored.values()})
    index = directory / INDEX
    return {
        "path": str(directory),
        "format": " + ".join(sorted({_kind(weight) for weight in weights.values()})),
        "config_sha256": _sha256(directory / "config.json"),
        "index_sha256": _sha256(index) if index.is_file() else None,
        "shards": [[shard.name, shard.stat().st_size, shard.stat().st_mtime_ns] for shard in shards],
    }


def _kind(weight: Weight) -> str:
    return weight.stored[0].dtype if weight.kind == floats.PlainFloats.kind else weight.kind


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
