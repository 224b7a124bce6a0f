"""A checkpoint directory: its tensors checked against the config before any is read, then read one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from runtime.config import ModelConfig
from runtime.errors import PROBLEMS_SHOWN, CheckpointError
from runtime.inventory import (
    EMBEDDING,
    MatrixSpec,
    dense_matrices,
    expert_layers,
    expert_matrices,
    plain_tensors,
)
from runtime.shards import NUMBER_TYPES, StoredTensor, damaged, read_headers

# How the tensors of a quantised checkpoint are named, and what that format is called.
QUANTISED_SUFFIXES = {
    ".weight_scale_inv": "block FP8",
    ".weight_packed": "compressed-tensors int4",
    ".weight_scale": "compressed-tensors FP8",
    ".qweight": "GPTQ or AWQ int4",
}


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that a config calls for. Original checkpoints keep most in bf16, `float32` ones in fp32."""

    name: str
    shape: tuple[int, ...]
    float32: bool = False

    @property
    def elements(self) -> int:
        return torch.Size(self.shape).numel()


def expected_tensors(config: ModelConfig) -> Iterator[TensorSpec]:
    """Every tensor of a BailingMoeV2 model, with num_nextn_predict_layers MTP layers."""
    for tensor in plain_tensors(config):
        yield TensorSpec(tensor.name, tensor.shape, float32=tensor.name.endswith(".expert_bias"))
    for matrix in dense_matrices(config):
        if matrix.parts != (EMBEDDING,):
            yield from _parts(matrix)
    for layer in expert_layers(config):
        for expert in range(config.num_experts):
            for matrix in expert_matrices(config, layer, expert):
                yield from _parts(matrix)


def _parts(matrix: MatrixSpec) -> Iterator[TensorSpec]:
    for name in matrix.parts:
        yield TensorSpec(name, (matrix.rows // len(matrix.parts), matrix.columns))


class Checkpoint:
    """An open BailingMoeV2 directory whose tensors are those its config calls for.

    Raises CheckpointError when they are not, when a shard is damaged, or when the weights are quantised.
    """

    def __init__(self, config: ModelConfig, stored: dict[str, StoredTensor]) -> None:
        self.config = config
        self._stored = stored
        self._open: dict[Path, Any] = {}

    @classmethod
    def open(cls, path: str | Path, config: ModelConfig) -> Self:
        """Checks a directory. `config` of the result counts the MTP layers that are in the files."""
        directory = Path(path)
        stored = read_headers(directory)
        _refuse_quantised(directory, config, stored)
        config, kept = usable_tensors(config, stored)
        refuse(directory, _problems(expected_tensors(config), kept))
        return cls(config, kept)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._stored.values())

    def read(self, name: str) -> Tensor:
        """A tensor as stored, mapped from its file."""
        shard = self._stored[name].shard
        try:
            if shard not in self._open:
                self._open[shard] = safe_open(shard, framework="pt", device="cpu")
            tensor: Tensor = self._open[shard].get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise damaged(shard, str(error)) from error
        return tensor


def _refuse_quantised(directory: Path, config: ModelConfig, stored: dict[str, StoredTensor]) -> None:
    suffixes = QUANTISED_SUFFIXES.items()
    formats = {what for name in stored for suffix, what in suffixes if name.endswith(suffix)}
    if any(tensor.dtype.startswith("F8_") for tensor in stored.values()):
        formats.add("FP8")
    if config.quant_method and not formats:
        formats.add(f"quant_method {config.quant_method}")
    if formats:
        raise CheckpointError(
            f"the weights in {directory} are quantised ({', '.join(sorted(formats))}): not read here",
            "Pack it first (antangel pack), or use the bf16 checkpoint of the same model.",
        )


def usable_tensors(
    config: ModelConfig, stored: Mapping[str, StoredTensor]
) -> tuple[ModelConfig, dict[str, StoredTensor]]:
    """The config with the MTP layers that are in the files, and all tensors but those that no model needs."""
    config = replace(config, num_nextn_predict_layers=_count_mtp_layers(config, stored))
    return config, {name: tensor for name, tensor in stored.items() if not _is_ignored(name, config)}


def refuse(directory: Path, problems: list[str]) -> None:
    """Raises CheckpointError with the first of the problems, if there are any."""
    if not problems:
        return
    more = len(problems) - PROBLEMS_SHOWN
    listed = problems[:PROBLEMS_SHOWN] + ([f"and {more} more"] if more > 0 else [])
    raise CheckpointError(
        f"the tensors in {directory} are not those its config.json calls for:\n  " + "\n  ".join(listed),
        "Download config.json and all weights of one revision again.",
    )


def tensor_problem(spec: TensorSpec, found: StoredTensor | None) -> str | None:
    """What is wrong with a tensor that is to hold floats, if anything."""
    if found is None:
        return f"missing  {spec.name}: expected {list(spec.shape)}, found none"
    if found.shape != spec.shape:
        return f"shape    {spec.name}: expected {list(spec.shape)}, found {list(found.shape)}"
    if found.dtype not in NUMBER_TYPES:
        return f"type     {spec.name}: expected one of {', '.join(NUMBER_TYPES)}, found {found.dtype}"
    return None


def extra_problems(wanted: Iterable[str], stored: Mapping[str, StoredTensor]) -> list[str]:
    """The tensors that the config calls for none of."""
    known = set(wanted)
    return [
        f"extra    {name}: found {list(tensor.shape)} {tensor.dtype}, the config calls for none"
        for name, tensor in stored.items()
        if name not in known
    ]


def _count_mtp_layers(config: ModelConfig, stored: Mapping[str, StoredTensor]) -> int:
    """Layers with a projection of their own behind the decoder's, quantised or not."""
    found = {name.rpartition(".")[0] for name in stored if ".eh_proj." in name}
    count = 0
    while f"model.layers.{config.num_hidden_layers + count}.eh_proj" in found:
        count += 1
    return count


def _is_ignored(name: str, config: ModelConfig) -> bool:
    if "inv_freq" in name or "v_head" in name:
        return True
    if name == "lm_head.weight" and config.tie_word_embeddings:
        return True
    return _is_mtp_copy(name, config)


def _is_mtp_copy(name: str, config: ModelConfig) -> bool:
    """Whether a repack put the shared embedding or head under an MTP layer once more."""
    layer = name.removeprefix("model.layers.").split(".")[0]
    is_mtp = layer.isdigit() and int(layer) >= config.num_hidden_layers
    return is_mtp and (".embed_tokens." in name or ".shared_head.head." in name)


def _problems(expected: Iterable[TensorSpec], stored: Mapping[str, StoredTensor]) -> list[str]:
    wanted = {spec.name: spec for spec in expected}
    problems = [problem for spec in wanted.values() if (problem := tensor_problem(spec, stored.get(spec.name)))]
    return problems + extra_problems(wanted, stored)
