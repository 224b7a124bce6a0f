"""The demonstration model with layers as wide as AntAngelMed's: `python -m bench.widened DIR` writes a checkpoint.

It answers as the demonstration model does, and reads for every token as much as a large model's layers: hidden states
of 4,096 and experts of 1,024 instead of 256 and 128, the rest filled with zeros. What a batch saves is the reading of
weights, and the demonstration model's own stay in a processor's cache. `antangel pack DIR -o PACK`, then
`python -m bench.batching -m PACK`.

A root mean square over 16 times as many numbers, the new ones 0, is a quarter of what it was: the weights of norms over
hidden states are divided by 4 and epsilon by 16, both without rounding. The MTP layer is left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from nano.export import CHECKPOINT

HIDDEN, NORM, INNER = 16, 4, 8
"""How many times as wide hidden states and what lies within an MLP become; NORM is the root of HIDDEN."""
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
HIDDEN_NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight", "model.norm.weight")
READ_HIDDEN = ("query_key_value.weight", "mlp.gate.weight", "lm_head.weight", "word_embeddings.weight")


def widened(name: str, tensor: Tensor) -> Tensor:
    """One tensor of the checkpoint, of whatever shape it has, in its new one."""
    if name.endswith(HIDDEN_NORMS):
        return _padded(tensor / NORM, tensor.shape[0] * HIDDEN)
    if name.endswith(READ_HIDDEN):
        return _padded(tensor, tensor.shape[0], tensor.shape[1] * HIDDEN)
    if name.endswith(("gate_proj.weight", "up_proj.weight")):
        return _padded(tensor, tensor.shape[0] * INNER, tensor.shape[1] * HIDDEN)
    if name.endswith("down_proj.weight"):
        return _padded(tensor, tensor.shape[0] * HIDDEN, tensor.shape[1] * INNER)
    if name.endswith("attention.dense.weight"):
        return _padded(tensor, tensor.shape[0] * HIDDEN, tensor.shape[1])
    return tensor


def write(checkpoint: Path, directory: Path) -> None:
    """Write the widened form of a checkpoint to a directory that is not there yet, a file for each layer."""
    directory.mkdir(parents=True)
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    layers = config["num_hidden_layers"]
    index: dict[str, str] = {}
    for part, names in _parts(checkpoint, layers):
        file = f"{part}.safetensors"
        save_file({name: widened(name, tensor) for name, tensor in names}, directory / file)
        with safe_open(directory / file, "pt") as written:
            index |= dict.fromkeys(written.keys(), file)
    _write_json(directory / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    wide = {key: config[key] * INNER for key in config if key.endswith("intermediate_size")}
    wide |= {"hidden_size": config["hidden_size"] * HIDDEN, "rms_norm_eps": config["rms_norm_eps"] / HIDDEN}
    _write_json(directory / "config.json", config | wide | {"num_nextn_predict_layers": 0})
    for name in TOKENIZER:
        shutil.copyfile(checkpoint / name, directory / name)


def _parts(checkpoint: Path, layers: int) -> Iterator[tuple[str, Iterator[tuple[str, Tensor]]]]:
    """The tensors of each layer, and those of none; not those of a layer that drafts."""
    files = sorted(checkpoint.glob("*.safetensors"))
    for part in (*(f"layer-{i}" for i in range(layers)), "rest"):
        yield part, _tensors(files, part)


def _tensors(files: list[Path], part: str) -> Iterator[tuple[str, Tensor]]:
    for file in files:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                if _part(name) == part:
                    yield name, opened.get_tensor(name)


def _part(name: str) -> str:
    words = name.split(".")
    return f"layer-{words[2]}" if words[:2] == ["model", "layers"] else "rest"


def _padded(tensor: Tensor, *shape: int) -> Tensor:
    wide = torch.zeros(shape, dtype=tensor.dtype)
    wide[tuple(slice(size) for size in tensor.shape)] = tensor
    return wide


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    write(CHECKPOINT, parser.parse_args().directory)


if __name__ == "__main__":
    main()
