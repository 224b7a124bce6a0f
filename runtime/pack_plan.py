"""What a pack will be, decided before anything is written: a format and a place for everything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kernels.formats import FLOATS, Format, FormatError
from runtime.errors import CheckpointError
from runtime.inventory import MatrixSpec, dense_matrices, expert_layers, expert_matrices, plain_tensors
from runtime.pack_layout import DenseEntry, ExpertGeometry, place
from runtime.sources.source import Source
from runtime.sources.weight import FloatWeight, Weight

ONE_FORMAT = "Use a checkpoint whose experts are all stored in one way."


@dataclass(frozen=True)
class PackPlan:
    """The source, the formats asked for, and where everything will lie."""

    source: Source
    experts_format: Format
    dense_format: Format
    dense: tuple[DenseEntry, ...]
    experts: ExpertGeometry

    @property
    def dense_bytes(self) -> int:
        return self.dense[-1].end

    @property
    def nbytes(self) -> int:
        return self.dense_bytes + self.experts.nbytes

    @property
    def requested(self) -> dict[str, str]:
        return {"experts": str(self.experts_format), "dense": str(self.dense_format)}

    @property
    def formats(self) -> dict[str, str]:
        """What came of it: imports keep their own format, and a matrix that the asked one cannot hold its floats."""
        dense = {str(entry.format): None for entry in self.dense if entry.is_matrix}
        experts = {str(self.experts.gate_up): None, str(self.experts.down): None}
        return {"experts": " + ".join(experts), "dense": " + ".join(dense)}


def make_plan(source: Source, experts: Format, dense: Format) -> PackPlan:
    """Raises CheckpointError for experts that a format cannot hold, or that are of several."""
    config = source.config
    matrices = {spec.name: spec for spec in dense_matrices(config)}
    entries = [
        (tensor.name, False, plain_format(source, tensor.name), tensor.shape) for tensor in plain_tensors(config)
    ]
    entries += [
        (spec.name, True, _dense_format(spec, source.parts(spec), dense), (spec.rows, spec.columns))
        for spec in matrices.values()
    ]
    return PackPlan(source, experts, dense, place(entries), _geometry(source, experts))


def plain_format(source: Source, name: str) -> Format:
    """A plain tensor's number type is its own, but for a router in fp16: routers come in bf16 or fp32 only."""
    named = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}[source.plain[name].dtype]
    widened = named == "fp16" and name.endswith(".mlp.gate.weight")
    return Format.parse("fp32" if widened else named)


def _dense_format(spec: MatrixSpec, parts: tuple[Weight, ...], wanted: Format) -> Format:
    own = _own_format(spec, parts)
    if own is not None:
        return own
    try:
        wanted.check(spec.rows // len(parts), spec.columns)
    except FormatError:
        return _floats(parts)
    return wanted


def _own_format(spec: MatrixSpec, parts: tuple[Weight, ...]) -> Format | None:
    """The format that a matrix of integers keeps; None for one of floats."""
    formats = {part.spec.name: None if isinstance(part, FloatWeight) else part.format for part in parts}
    if len(set(formats.values())) > 1:
        named = ", ".join(f"{name} is {_described(part)}" for name, part in zip(formats, parts, strict=True))
        raise CheckpointError(f"{spec.name} would be of two formats: {named}", ONE_FORMAT)
    return next(iter(formats.values()))


def _floats(parts: tuple[Weight, ...]) -> Format:
    """The type that keeps the floats of all parts."""
    dtypes = {part.dtype for part in parts if isinstance(part, FloatWeight)}
    return Format.parse(next((n for n, dtype in FLOATS.items() if dtypes == {dtype}), "fp32"))


def _described(part: Weight) -> str:
    return part.kind if isinstance(part, FloatWeight) else f"{part.kind} ({part.format})"


def _geometry(source: Source, wanted: Format) -> ExpertGeometry:
    config, layers = source.config, expert_layers(source.config)
    found: list[tuple[str, Format, Format]] = []
    for layer, expert in _experts(source):
        gate_up, down = expert_matrices(config, layer, expert)
        both = _expert_format(source, gate_up, wanted), _expert_format(source, down, wanted)
        if found and both != found[0][1:]:
            raise CheckpointError(
                f"experts are of several formats: {gate_up.name} and {down.name} are {both[0]} and {both[1]}, "
                f"those of {found[0][0]} {found[0][1]} and {found[0][2]}",
                ONE_FORMAT,
            )
        found = found or [(f"layer {layer}, expert {expert}", *both)]
    formats = found[0][1:] if found else (wanted, wanted)
    return ExpertGeometry(layers, config.num_experts, *formats, config.hidden_size, config.moe_intermediate_size)


def _experts(source: Source) -> Iterator[tuple[int, int]]:
    for layer in expert_layers(source.config):
        for expert in range(source.config.num_experts):
            yield layer, expert


def _expert_format(source: Source, spec: MatrixSpec, wanted: Format) -> Format:
    parts = source.parts(spec)
    own = _own_format(spec, parts)
    if own is not None:
        return own
    try:
        wanted.check(spec.rows // len(parts), spec.columns)
    except FormatError as error:
        raise CheckpointError(
            f"{spec.name} cannot be packed: {error}", "Choose another format with --experts, such as bf16."
        ) from error
    return wanted
