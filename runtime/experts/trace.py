"""Routing traces: which experts every token went to, step by step, in a file that is written as it happens."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from runtime.config import ModelConfig
from runtime.errors import OptionError
from runtime.experts.policy import Rhythm

SCHEMA = "antangel.trace/1"
NOTICE = "The text can be found out from this file: keep it as you keep the text."

Step = NDArray[np.int16]  # [layers, T, K], ascending along K


class TraceError(OptionError):
    """A trace cannot be written, or a file is no trace or a damaged one."""


@dataclass(frozen=True)
class Trace:
    """The routing of a model with so many MoE layers, the first of which has the index `first_layer`."""

    first_layer: int
    layers: int
    experts: int  # of a layer
    experts_per_token: int
    steps: tuple[Step, ...]

    @property
    def blobs(self) -> int:
        """Experts of all layers."""
        return self.layers * self.experts

    @property
    def rhythm(self) -> Rhythm:
        return Rhythm.of(self.layers, self.experts, self.experts_per_token)

    @property
    def tokens(self) -> int:
        return sum(step.shape[1] for step in self.steps)


def is_decode(step: Step) -> bool:
    """Whether a step is of one token: several are a prompt, what a grammar forced, or several sequences."""
    return bool(step.shape[1] == 1)


class TraceWriter:
    """Writes a trace as JSON lines, readable by its owner alone; it is a routing observer.

    The first line says of which model. Each other one is a step: {"rows": T, "experts": [layers][T][K]}. A step is
    written when the first layer is told again, and by `close`; one that was broken off is not. Raises TraceError where
    there is such a file already and `overwrite` is not set.
    """

    notice = NOTICE

    def __init__(
        self,
        path: str | Path,
        *,
        first_layer: int,
        layers: int,
        experts: int,
        experts_per_token: int,
        overwrite: bool = False,
    ) -> None:
        self._first_layer = first_layer
        self._layers = layers
        self._step: list[list[list[int]]] = []
        self._path = Path(path)
        self._file = _open_new(self._path, overwrite)
        header = {"first_layer": first_layer, "layers": layers, "experts": experts}
        self._write({"schema": SCHEMA, "notice": NOTICE, **header, "experts_per_token": experts_per_token})

    @classmethod
    def of_model(cls, path: str | Path, config: ModelConfig, overwrite: bool = False) -> TraceWriter:
        """A trace of the decoder's layers; an MTP layer is not observed."""
        return cls(
            path,
            first_layer=config.first_k_dense_replace,
            layers=config.num_hidden_layers - config.first_k_dense_replace,
            experts=config.num_experts,
            experts_per_token=config.num_experts_per_tok,
            overwrite=overwrite,
        )

    def __call__(self, layer: int, ids: Tensor) -> None:
        """Note the expert ids [T, K] of a layer."""
        if layer == self._first_layer:
            self._end_step()
        self._step.append(ids.tolist())

    def close(self) -> None:
        try:
            self._end_step()
        finally:
            # What could not be written was told when it was tried.
            with contextlib.suppress(OSError):
                self._file.close()

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _end_step(self) -> None:
        if len(self._step) == self._layers:
            self._write({"rows": len(self._step[0]), "experts": self._step})
        self._step = []

    def _write(self, record: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(record, separators=(",", ":")) + "\n")
            self._file.flush()
        except OSError as error:
            raise TraceError(f"{self._path} cannot be written: {error.strerror}", "Free some space.") from error


def _open_new(path: Path, overwrite: bool) -> TextIO:
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if overwrite else os.O_EXCL)
    try:
        handle = os.open(path, flags, 0o600)
        os.fchmod(handle, 0o600)
    except FileExistsError:
        raise TraceError(f"{path} exists already", "Name another file for the trace.") from None
    except OSError as error:
        raise TraceError(f"{path} cannot be written: {error.strerror}", "Name another file for the trace.") from error
    return os.fdopen(handle, "w", encoding="ascii")


def read_trace(path: str | Path) -> Trace:
    """Reads what TraceWriter wrote, also compressed as .gz. A last line that was not finished is left out.

    Raises TraceError, which names the line.
    """
    place = Path(path)
    lines = _finished_lines(place)
    if not lines:
        raise TraceError(f"{place} is empty", "Give a file that --trace wrote.")
    header = _header(place, lines[0])
    shape = (header["layers"], header["experts_per_token"])
    steps = (_step(place, number, line, *shape, header["experts"]) for number, line in enumerate(lines[1:], start=2))
    return Trace(steps=tuple(steps), **header)


def _finished_lines(path: Path) -> list[bytes]:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TraceError(f"{path} cannot be read: {reason}", "Check the name, or record the trace again.") from error
    return data.split(b"\n")[:-1]


def _header(path: Path, line: bytes) -> dict[str, int]:
    record = _record(path, 1, line)
    counts = {key: record.get(key) for key in ("first_layer", "layers", "experts", "experts_per_token")}
    if record.get("schema") != SCHEMA or not all(type(count) is int and count >= 0 for count in counts.values()):
        raise TraceError(f"{path}, line 1: this is no {SCHEMA}", "Give a file that --trace wrote.")
    return {key: int(record[key]) for key in counts}


def _step(path: Path, number: int, line: bytes, layers: int, k: int, experts: int) -> Step:
    record = _record(path, number, line)
    try:
        step = np.asarray(record["experts"], dtype=np.int16)
        whole = step.shape == (layers, record["rows"], k)
    except (KeyError, ValueError, OverflowError, TypeError):
        whole = False
    if not whole or not _are_routed(step, experts):
        raise _damaged(path, number)
    return step


def _are_routed(step: Step, experts: int) -> bool:
    """Whether all are ids of experts, ascending and distinct in each row."""
    return bool(step.size and step.min() >= 0 and step.max() < experts and (np.diff(step, axis=2) > 0).all())


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        raise _damaged(path, number) from None
    if not isinstance(record, dict):
        raise _damaged(path, number)
    return record


def _damaged(path: Path, number: int) -> TraceError:
    return TraceError(
        f"{path}, line {number}: this is no step of the trace", "Cut the file before this line, or record it again."
    )
