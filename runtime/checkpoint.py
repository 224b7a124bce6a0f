"""A checkpoint directory: its tensors checked against the config before any is read, then read one by one."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from runtime.config import ModelConfig
from runtime.errors import CheckpointError

INDEX = "model.safetensors.index.json"

# safetensors' names of the number types that are read, and torch's.
NUMBER_TYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}

# How the tensors of a quantised checkpoint are named, and what that format is called.
QUANTISED_SUFFIXES = {
    ".weight_scale_inv": "block FP8",
    ".weight_packed": "compressed-tensors int4",
    ".weight_scale": "compressed-tensors FP8",
    ".qweight": "GPTQ or AWQ int4",
}

PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that a config calls for. Original checkpoints keep most in bf16, `float32` ones in fp32."""

    name: str
    shape: tuple[int, ...]
    float32: bool = False

    @property
    def elements(self) -> int:
        return torch.Size(self.shape).numel()


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a shard's header describes it."""

    shape: tuple[int, ...]
    dtype: str
    shard: Path


def expected_tensors(config: ModelConfig) -> Iterator[TensorSpec]:
    """Every tensor of a BailingMoeV2 model in order of use, with num_nextn_predict_layers MTP layers."""
    wide, hidden = config.vocab_size, config.hidden_size
    yield TensorSpec("model.word_embeddings.weight", (wide, hidden))
    for layer in range(config.num_hidden_layers + config.num_nextn_predict_layers):
        yield from _layer_tensors(config, layer)
    yield TensorSpec("model.norm.weight", (hidden,))
    if not config.tie_word_embeddings:
        yield TensorSpec("lm_head.weight", (wide, hidden))


def _layer_tensors(config: ModelConfig, layer: int) -> Iterator[TensorSpec]:
    prefix = f"model.layers.{layer}."
    is_mtp = layer >= config.num_hidden_layers
    yield from _attention_tensors(config, prefix)
    if config.is_dense(layer) and not is_mtp:
        yield from _swiglu_tensors(f"{prefix}mlp.", config.hidden_size, config.intermediate_size)
    else:
        yield from _moe_tensors(config, f"{prefix}mlp.")
    if is_mtp:
        yield from _mtp_tensors(config.hidden_size, prefix)


def _attention_tensors(config: ModelConfig, prefix: str) -> Iterator[TensorSpec]:
    hidden, width = config.hidden_size, config.head_dim
    rows = (config.num_attention_heads + 2 * config.num_key_value_heads) * width
    yield TensorSpec(f"{prefix}input_layernorm.weight", (hidden,))
    yield TensorSpec(f"{prefix}attention.query_key_value.weight", (rows, hidden))
    yield TensorSpec(f"{prefix}attention.query_layernorm.weight", (width,))
    yield TensorSpec(f"{prefix}attention.key_layernorm.weight", (width,))
    yield TensorSpec(f"{prefix}attention.dense.weight", (hidden, config.num_attention_heads * width))
    yield TensorSpec(f"{prefix}post_attention_layernorm.weight", (hidden,))


def _swiglu_tensors(prefix: str, hidden: int, inner: int) -> Iterator[TensorSpec]:
    yield TensorSpec(f"{prefix}gate_proj.weight", (inner, hidden))
    yield TensorSpec(f"{prefix}up_proj.weight", (inner, hidden))
    yield TensorSpec(f"{prefix}down_proj.weight", (hidden, inner))


def _moe_tensors(config: ModelConfig, prefix: str) -> Iterator[TensorSpec]:
    hidden = config.hidden_size
    yield TensorSpec(f"{prefix}gate.weight", (config.num_experts, hidden))
    yield TensorSpec(f"{prefix}gate.expert_bias", (config.num_experts,), float32=True)
    for expert in range(config.num_experts):
        yield from _swiglu_tensors(f"{prefix}experts.{expert}.", hidden, config.moe_intermediate_size)
    shared = config.moe_shared_expert_intermediate_size
    yield from _swiglu_tensors(f"{prefix}shared_experts.", hidden, shared)


def _mtp_tensors(hidden: int, prefix: str) -> Iterator[TensorSpec]:
    for norm in ("enorm", "hnorm", "final_layernorm"):
        yield TensorSpec(f"{prefix}{norm}.weight", (hidden,))
    yield TensorSpec(f"{prefix}eh_proj.weight", (hidden, 2 * hidden))


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
        stored = {name: tensor for shard in _shards(directory) for name, tensor in _read_header(shard)}
        _refuse_quantised(directory, config, stored)
        config = replace(config, num_nextn_predict_layers=_count_mtp_layers(config, stored))
        kept = {name: tensor for name, tensor in stored.items() if not _is_ignored(name, config)}
        _check_against(directory, expected_tensors(config), kept)
        return cls(config, kept)

    def read(self, name: str) -> Tensor:
        """A tensor as stored, mapped from its file."""
        shard = self._stored[name].shard
        try:
            if shard not in self._open:
                self._open[shard] = safe_open(shard, framework="pt", device="cpu")
            tensor: Tensor = self._open[shard].get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise _damaged(shard, str(error)) from error
        return tensor


def _shards(directory: Path) -> list[Path]:
    index = directory / INDEX
    if not index.is_file():
        return _single_file(directory)
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise _damaged(index, f"it holds no weight_map ({error})") from error
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{directory} lacks {len(missing)} of {len(names)} shards: {', '.join(missing[:PROBLEMS_SHOWN])}",
            "Download the missing files.",
        )
    return [directory / name for name in names]


def _single_file(directory: Path) -> list[Path]:
    files = sorted(directory.glob("*.safetensors"))
    if len(files) == 1:
        return files
    found = f"{len(files)} safetensors files and no {INDEX}" if files else "no safetensors file"
    raise CheckpointError(f"{directory} holds {found}", "Give the directory of a complete checkpoint, as downloaded.")


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {why}", f"Download {path.name} again.")


def _read_header(shard: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Names, shapes and types from the JSON header of a safetensors file, whose length is checked."""
    size = shard.stat().st_size
    with shard.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else 0
        if not 0 < length <= size - 8:
            raise _damaged(shard, f"its {size} bytes hold no complete header")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise _damaged(shard, "its header is unreadable") from error
    if size != 8 + length + end:
        raise _damaged(shard, f"it has {size} bytes where its header calls for {8 + length + end}")
    for name, entry in header.items():
        yield name, StoredTensor(tuple(entry["shape"]), entry["dtype"], shard)


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
            "Use the bf16 checkpoint of the same model.",
        )


def _count_mtp_layers(config: ModelConfig, stored: dict[str, StoredTensor]) -> int:
    count = 0
    while f"model.layers.{config.num_hidden_layers + count}.eh_proj.weight" in stored:
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


def _check_against(directory: Path, expected: Iterable[TensorSpec], stored: dict[str, StoredTensor]) -> None:
    wanted = {spec.name: spec for spec in expected}
    problems = [problem for spec in wanted.values() if (problem := _problem(spec, stored.get(spec.name)))]
    problems += [
        f"extra    {name}: found {list(tensor.shape)} {tensor.dtype}, the config calls for none"
        for name, tensor in stored.items()
        if name not in wanted
    ]
    if not problems:
        return
    more = len(problems) - PROBLEMS_SHOWN
    listed = problems[:PROBLEMS_SHOWN] + ([f"and {more} more"] if more > 0 else [])
    raise CheckpointError(
        f"the tensors in {directory} are not those its config.json calls for:\n  " + "\n  ".join(listed),
        "Download config.json and all weights of one revision again.",
    )


def _problem(spec: TensorSpec, found: StoredTensor | None) -> str | None:
    if found is None:
        return f"missing  {spec.name}: expected {list(spec.shape)}, found none"
    if found.shape != spec.shape:
        return f"shape    {spec.name}: expected {list(spec.shape)}, found {list(found.shape)}"
    if found.dtype not in NUMBER_TYPES:
        return f"type     {spec.name}: expected one of {', '.join(NUMBER_TYPES)}, found {found.dtype}"
    return None
