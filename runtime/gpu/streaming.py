"""Prompts on a GPU: a pass over all layers; experts stream through two buffers while those before are computed."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.gpu.tables import Placement
from kernels.ops import Wave
from runtime.experts.paging import ComputeWave
from runtime.pack_layout import ExpertGeometry

# Fewer rows than these are a decode step; from so many on nearly every expert of a layer is used.
PASSING_ROWS = 64


@dataclass(frozen=True)
class Part:
    """Experts of a layer that share a buffer: those from `first` to `stop` - 1."""

    layer: int
    first: int
    stop: int


@dataclass(frozen=True)
class _Arrival:
    """A part that was asked for: the buffer it comes to, and when it has come."""

    buffer: int
    event: torch.cuda.Event | None


@dataclass(frozen=True)
class PassVisit:
    """A layer of a pass under way: its parts of which any expert is needed, and what is needed."""

    layer: int
    parts: tuple[Part, ...]
    needed: NDArray[np.bool_]  # [E]


class ExpertStream:
    """Brings experts that have no slot from host memory into two buffers by turns, and says where they are.

    A part is copied on a stream of its own when the buffer's last part has been computed, and computed when it has
    come: copies and computing overlap. The first part of the next layer is asked for before its routing is known.
    """

    def __init__(
        self,
        geometry: ExpertGeometry,
        placement: Placement,
        addresses: Tensor,
        frames: Tensor,
        piece: int,
        buffers: Tensor,
        pass_layers: int,
    ) -> None:
        """`addresses` int64 [L, E] are kept up to date: where an expert is, in a slot or a buffer, 0 for in neither.

        `frames` uint8 [frames, blob bytes] are in host memory, `buffers` uint8 [2, W, blob bytes] on the device.

        No copy goes beyond a multiple of `piece` frames: what was pinned in parts is copied in parts.
        """
        self.geometry = geometry
        self.counts: Counter[str] = Counter()
        self._placement = placement
        self._frames = frames
        self._piece = piece
        self.buffers = buffers
        self._pass_layers = pass_layers
        self._addresses = addresses
        self._location: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._arrivals: dict[Part, _Arrival] = {}
        self._computed: list[torch.cuda.Event | None] = [None, None]
        self._turn = 0
        self._rows = 0
        on_gpu = buffers.device.type == "cuda"
        self._stream = torch.cuda.Stream(buffers.device) if on_gpu else None

    def begin(self, rows: int) -> None:
        """A pass begins: where everything is stays as it is until the next step."""
        self._rows = rows
        self._settle()
        self._location = self._placement.location.cpu().numpy()
        in_slots = torch.from_numpy(self._location).long().view_as(self._addresses)
        base = self._placement.slots.data_ptr()
        self._addresses.copy_(torch.where(in_slots >= 0, base + in_slots * self._placement.blob_bytes, 0))

    def visit(self, layer: int, ids: Tensor) -> PassVisit:
        """What a layer needs, of its experts ids [T, K]."""
        geometry = self.geometry
        needed = np.zeros(geometry.count, dtype=np.bool_)
        needed[ids.unique().cpu().numpy()] = True
        resident = self._location[layer * geometry.count :][: geometry.count] >= 0
        self.counts.update(pass_uses=int(needed.sum()), pass_hits=int((needed & resident).sum()))
        parts = tuple(part for part in self._parts(layer) if needed[part.first : part.stop].any())
        return PassVisit(layer, parts, needed)

    def compute(self, visit: PassVisit, compute_wave: ComputeWave) -> Tensor:
        """A layer's output, part by part."""
        total: Tensor | None = None
        for part, following in pairwise([*visit.parts, None]):
            assert part is not None
            arrival = self._arrivals.pop(part, None) or self._ask(part, visit.needed)
            self._ask_next(visit, following)
            self._await(arrival.event)
            stop = self.geometry.count if following is None else following.first
            first = 0 if part is visit.parts[0] else part.first
            total = compute_wave(Wave(first, stop, total, last=following is None))
            self._computed[arrival.buffer] = self._mark()
            self._forget(part)
        self.counts["waves"] += len(visit.parts)
        assert total is not None
        return total

    def blob(self, address: int) -> Tensor | None:
        """The bytes of an expert at an address, in a slot or a buffer."""
        for region in (self._placement.slots, *self.buffers):
            row = (address - region.data_ptr()) // self._placement.blob_bytes
            if address and 0 <= row < len(region):
                found: Tensor = region[row]
                return found
        return None

    def _parts(self, layer: int) -> list[Part]:
        count = self.geometry.count
        width = self.buffers.shape[1] or count
        return [Part(layer, first, min(first + width, count)) for first in range(0, count, width)]

    def _ask_next(self, visit: PassVisit, following: Part | None) -> None:
        """The part that will be computed after this one."""
        if following is not None:
            self._arrivals[following] = self._ask(following, visit.needed)
        elif self._rows >= PASSING_ROWS and visit.layer + 1 < self._pass_layers:
            part = self._parts(visit.layer + 1)[0]
            self._arrivals[part] = self._ask(part, np.ones(self.geometry.count, dtype=np.bool_))

    def _ask(self, part: Part, needed: NDArray[np.bool_]) -> _Arrival:
        buffer = self._turn % 2
        self._turn += 1
        missing = [e for e in range(part.first, part.stop) if needed[e] and self._frame(part.layer, e) is not None]
        with self._copying(buffer):
            for run, row in _runs([self._required_frame(part.layer, e) for e in missing], self._piece):
                self.buffers[buffer, row : row + len(run)].copy_(self._frames[run[0] : run[-1] + 1], non_blocking=True)
            event = self._mark()
        base = self.buffers[buffer].data_ptr()
        for row, expert in enumerate(missing):
            self._addresses[part.layer, expert] = base + row * self._placement.blob_bytes
        self.counts["streamed"] += len(missing)
        return _Arrival(buffer, event)

    def _frame(self, layer: int, expert: int) -> int | None:
        """The host frame of an expert, None for one that has a slot."""
        location = int(self._location[layer * self.geometry.count + expert])
        return None if location >= 0 else -1 - location

    def _required_frame(self, layer: int, expert: int) -> int:
        frame = self._frame(layer, expert)
        assert frame is not None
        return frame

    def _forget(self, part: Part) -> None:
        for expert in range(part.first, part.stop):
            if self._frame(part.layer, expert) is not None:
                self._addresses[part.layer, expert] = 0

    def _settle(self) -> None:
        """What an earlier pass left behind, where it was broken off, is let go."""
        if self._stream is not None:
            self._stream.synchronize()
        self._arrivals.clear()

    @contextlib.contextmanager
    def _copying(self, buffer: int) -> Iterator[None]:
        """On the stream of copies, once the buffer is no longer read."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            computed = self._computed[buffer]
            if computed is not None:
                self._stream.wait_event(computed)
            yield

    def _mark(self) -> torch.cuda.Event | None:
        if self._stream is None:
            return None
        event = torch.cuda.Event()
        event.record()
        return event

    def _await(self, event: torch.cuda.Event | None) -> None:
        if event is not None:
            torch.cuda.current_stream().wait_event(event)


def _runs(frames: Sequence[int], piece: int) -> Iterator[tuple[list[int], int]]:
    """Stretches of neighbouring frames, each to be copied at once, and the row at which each starts."""
    run: list[int] = []
    for row, frame in enumerate(frames):
        if run and (frame != run[-1] + 1 or frame % piece == 0):
            yield run, row - len(run)
            run = []
        run.append(frame)
    if run:
        yield run, len(frames) - len(run)
