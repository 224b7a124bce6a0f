"""The work of packing, cut into tasks of a few megabytes that know where their bytes go before they make them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kernels.formats import FLOATS, ROW_BLOCK, Format, FormatError, Matrix, QuantisationError, quantise, stack_rows
from runtime.errors import CheckpointError
from runtime.inventory import HEAD, MatrixSpec, dense_matrices, expert_matrices
from runtime.pack_layout import DenseEntry, Range, row_ranges
from runtime.pack_manifest import DENSE, EXPERTS
from runtime.pack_plan import PackPlan
from runtime.shards import StoredTensor
from runtime.sources.weight import FloatWeight, Weight

# Numbers of a dense tensor that are worked on at once.
SLAB = 4 << 20

DAMAGED = "The checkpoint is damaged: download it again."

COLUMN_EPS = 1e-7


@dataclass(frozen=True)
class Made:
    """The bytes of a task, one tensor for each of its ranges; and what rounding them cost, where they were rounded."""

    parts: tuple[Tensor, ...]
    error: QuantisationError | None = None


class Task(Protocol):
    """A part of the pack that is made at once. `subject` is what its error is counted under."""

    @property
    def key(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def file(self) -> str: ...
    @property
    def ranges(self) -> list[Range]: ...
    def make(self) -> Made:
        """Reads the source. Raises CheckpointError."""
        ...


def task_bytes(task: Task) -> int:
    return sum(stop - start for start, stop in task.ranges)


@dataclass(frozen=True)
class PlainRows:
    """Rows of a plain tensor, as they are."""

    entry: DenseEntry
    stored: StoredTensor
    start: int
    stop: int
    file: str = DENSE

    @property
    def key(self) -> str:
        return f"{self.entry.name} {self.start}"

    @property
    def subject(self) -> str:
        return self.entry.name

    @property
    def ranges(self) -> list[Range]:
        return self.entry.ranges(self.start, self.stop)

    def make(self) -> Made:
        values = _finite(self.stored.read(self.start, self.stop).to(FLOATS[self.entry.format.scale]), self.entry.name)
        return Made((values.view(torch.uint8).flatten(),))


@dataclass(frozen=True)
class MatrixRows:
    """Rows of one part of a matrix that is no expert's, `above` rows down. `divisors` [K] scale its columns."""

    entry: DenseEntry
    weight: Weight
    above: int
    start: int
    stop: int
    divisors: Tensor | None = None
    file: str = DENSE

    @property
    def key(self) -> str:
        return f"{self.entry.name} {self.above + self.start}"

    @property
    def subject(self) -> str:
        return self.entry.name

    @property
    def ranges(self) -> list[Range]:
        return self.entry.ranges(self.above + self.start, self.above + self.stop)

    def make(self) -> Made:
        matrix, error = _matrix(self.weight, self.start, self.stop, self.entry.format, self.divisors)
        within = row_ranges(matrix.format, matrix.rows, matrix.columns, 0, matrix.rows)
        return Made(tuple(matrix.data[start:stop] for start, stop in within), error)


@dataclass(frozen=True)
class Blob:
    """One expert."""

    plan: PackPlan
    layer: int
    expert: int
    file: str = EXPERTS

    @property
    def index(self) -> int:
        return self.plan.experts.layers.index(self.layer) * self.plan.experts.count + self.expert

    @property
    def key(self) -> str:
        return f"blob {self.index}"

    @property
    def subject(self) -> str:
        return f"experts of layer {self.layer}"

    @property
    def ranges(self) -> list[Range]:
        size = self.plan.experts.blob_bytes
        return [(self.index * size, (self.index + 1) * size)]

    def make(self) -> Made:
        geometry = self.plan.experts
        specs = expert_matrices(self.plan.source.config, self.layer, self.expert)
        gate_up, first = self._stacked(specs[0], geometry.gate_up)
        down, second = self._stacked(specs[1], geometry.down)
        blob = torch.zeros(geometry.blob_bytes, dtype=torch.uint8)
        blob[: gate_up.nbytes] = gate_up.data
        blob[geometry.down_offset : geometry.content] = down.data
        return Made((blob,), _sum([*first, *second]))

    def _stacked(self, spec: MatrixSpec, format: Format) -> tuple[Matrix, list[QuantisationError | None]]:
        parts = self.plan.source.parts(spec)
        made = [_matrix(part, 0, part.spec.shape[0], format, None) for part in parts]
        return stack_rows([matrix for matrix, _ in made]), [error for _, error in made]


def tasks(plan: PackPlan) -> Iterator[Task]:
    """All work in order of place."""
    specs = {spec.name: spec for spec in dense_matrices(plan.source.config)}
    for entry in plan.dense:
        if entry.is_matrix:
            yield from _matrix_tasks(plan, entry, specs[entry.name])
        else:
            yield from _plain_tasks(plan, entry)
    for layer in plan.experts.layers:
        for expert in range(plan.experts.count):
            yield Blob(plan, layer, expert)


def _plain_tasks(plan: PackPlan, entry: DenseEntry) -> Iterator[PlainRows]:
    width = torch.Size(entry.shape[1:]).numel()
    for start, stop in _slabs(entry.rows, width):
        yield PlainRows(entry, plan.source.plain[entry.name], start, stop)


def _matrix_tasks(plan: PackPlan, entry: DenseEntry, spec: MatrixSpec) -> Iterator[MatrixRows]:
    divisors = _column_norms(plan.source.parts(spec)) if entry.name == HEAD and plan.source.config.norm_head else None
    above = 0
    for weight in plan.source.parts(spec):
        for start, stop in _slabs(weight.spec.shape[0], spec.columns):
            yield MatrixRows(entry, weight, above, start, stop, divisors)
        above += weight.spec.shape[0]


def _slabs(rows: int, width: int) -> Iterator[Range]:
    step = max(SLAB // width // ROW_BLOCK, 1) * ROW_BLOCK
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def _column_norms(parts: tuple[Weight, ...]) -> Tensor:
    """What norm_head divides each column by: its length, fp32 [K]."""
    squares = torch.zeros(parts[0].spec.shape[1], dtype=torch.float64)
    for weight in parts:
        for start, stop in _slabs(*weight.spec.shape):
            rows = weight.rows(start, stop)
            assert isinstance(rows, Tensor)
            squares += rows.double().square().sum(0)
    return squares.sqrt().clamp_min(COLUMN_EPS).float()


def _matrix(
    weight: Weight, start: int, stop: int, format: Format, divisors: Tensor | None
) -> tuple[Matrix, QuantisationError | None]:
    """Rows of a weight in a format: its own integers, or its floats quantised or converted."""
    try:
        if not isinstance(weight, FloatWeight):
            return weight.rows(start, stop), None
        rows = weight.rows(start, stop)
        rows = rows if divisors is None else rows.float() / divisors
        if format.is_quantised:
            return quantise(rows, format)
        return Matrix.identity(_finite(rows.to(FLOATS[format.scale]), weight.spec.name)), None
    except FormatError as error:
        raise CheckpointError(f"{weight.spec.name}, rows from {start}: {error}", DAMAGED) from error


def _finite(values: Tensor, name: str) -> Tensor:
    if not values.isfinite().all():
        raise CheckpointError(f"{name} holds a number that is not finite, as stored or as {values.dtype}", DAMAGED)
    return values


def _sum(errors: list[QuantisationError | None]) -> QuantisationError | None:
    known = [error for error in errors if error is not None]
    return sum(known, start=QuantisationError()) if known else None
