"""What is in a model's files, counted, and whether a model that is known has exactly that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.checkpoint import TensorSpec, expected_tensors
from runtime.config import ModelConfig
from runtime.inventory import EMBEDDING, dense_matrices
from runtime.pack import Pack, is_pack
from runtime.pack_layout import DenseEntry
from runtime.sources.source import Source


@dataclass(frozen=True)
class Count:
    """Tensors, and their numbers: those of the selection biases, which are kept in fp32, apart from the rest."""

    tensors: int = 0
    elements: int = 0
    float32: int = 0

    def __add__(self, other: Count) -> Count:
        tensors, elements = self.tensors + other.tensors, self.elements + other.elements
        return Count(tensors, elements, self.float32 + other.float32)

    def __str__(self) -> str:
        return f"{self.tensors:,} tensors of {self.elements:,} + {self.float32:,} numbers"


@dataclass(frozen=True)
class KnownModel:
    """A published model, told by its shape; `count` leaves MTP layers out."""

    name: str
    hidden_size: int
    num_hidden_layers: int
    num_experts: int
    count: Count

    def has_shape_of(self, config: ModelConfig) -> bool:
        keys = ("hidden_size", "num_hidden_layers", "num_experts")
        return all(getattr(config, key) == getattr(self, key) for key in keys)


# From the public metadata of the repositories.
KNOWN = (
    KnownModel("Ling-flash-2.0", 4096, 32, 256, Count(24_161, 102_889_697_280, 7_936)),
    KnownModel("Ling-mini-2.0", 2048, 20, 256, Count(14_813, 16_255_638_528, 4_864)),
)


@dataclass(frozen=True)
class Inventory:
    """What a directory holds. `found` and `expected`, by its config, count every layer, `fingerprint` the decoder's."""

    kind: str
    mtp_layers: int
    found: Count
    expected: Count
    fingerprint: str


def examine_model(path: str | Path) -> Inventory:
    """Counts what is in a pack or a checkpoint of any source format; no weight is read.

    Raises CheckpointError where a tensor is missing, too much, or of another shape than config.json says, or
    ConfigError.
    """
    directory = Path(path)
    if is_pack(directory):
        pack = Pack.open(directory)
        kind, config, stored = "pack", pack.config, list(_of_pack(pack))
    else:
        source = Source.open(directory)
        kind, config, stored = f"checkpoint, {source.identity['format']}", source.config, list(_of_source(source))
    decoder = [spec for spec in stored if _layer(spec.name) < config.num_hidden_layers]
    return Inventory(
        kind=kind,
        mtp_layers=config.num_nextn_predict_layers,
        found=count(stored),
        expected=count(expected_tensors(config)),
        fingerprint=fingerprint(config, count(decoder)),
    )


def count(tensors: Iterable[TensorSpec]) -> Count:
    """Tensors and their numbers."""
    counts = (Count(1, 0, spec.elements) if spec.float32 else Count(1, spec.elements) for spec in tensors)
    return sum(counts, Count())


def fingerprint(config: ModelConfig, decoder: Count) -> str:
    """Whether a decoder, without its MTP layers, has what a model that is known by its shape has."""
    known = next((model for model in KNOWN if model.has_shape_of(config)), None)
    if known is None:
        return "no known model of this shape"
    if known.count == decoder:
        return f"matches {known.name}"
    return f"differs from {known.name}, which has {known.count}"


def _of_source(source: Source) -> Iterator[TensorSpec]:
    weights = {name: weight.spec for name, weight in source.weights.items()}
    yield from weights.values()
    yield from (_plain(name, stored.shape) for name, stored in source.plain.items() if name not in weights)


def _of_pack(pack: Pack) -> Iterator[TensorSpec]:
    """The tensors that went into a pack, by its entries and blobs."""
    parts = {matrix.name: matrix.parts for matrix in dense_matrices(pack.config)}
    for entry in pack.manifest.dense:
        yield from _of_entry(entry, parts.get(entry.name, (entry.name,)))
    experts = pack.manifest.experts
    up, down = (experts.inner, experts.hidden), (experts.hidden, experts.inner)
    for layer in experts.layers:
        for name, shape in (("gate_proj", up), ("up_proj", up), ("down_proj", down)):
            prefix = f"model.layers.{layer}.mlp.experts"
            yield from (TensorSpec(f"{prefix}.{expert}.{name}.weight", shape) for expert in range(experts.count))


def _of_entry(entry: DenseEntry, parts: tuple[str, ...]) -> Iterator[TensorSpec]:
    if not entry.is_matrix:
        yield _plain(entry.name, entry.shape)
    elif parts != (EMBEDDING,):
        rows, columns = entry.shape
        yield from (TensorSpec(name, (rows // len(parts), columns)) for name in parts)


def _plain(name: str, shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec(name, shape, float32=name.endswith(".expert_bias"))


def _layer(name: str) -> int:
    """The layer that a tensor belongs to; -1 for none."""
    number = name.removeprefix("model.layers.").split(".")[0]
    return int(number) if number.isdigit() else -1
