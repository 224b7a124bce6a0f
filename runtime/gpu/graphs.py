"""A step as a CUDA graph: launched once as it is, captured at the second time, and replayed from then on."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch

from kernels.registry import Announce

Launches = Callable[[], None]


class Graphs:
    """One graph for each kind of step. Without a GPU, or where `wanted` is false, every step is launched as it is.

    The first launch of a kind compiles its kernels and takes its memory, which must not happen within a capture.
    """

    def __init__(self, device: torch.device, *, wanted: bool, announce: Announce | None) -> None:
        self._capturing = wanted and device.type == "cuda"
        self._announce = announce
        self._seen: set[Hashable] = set()
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self.replays = 0

    def run(self, kind: Hashable, launches: Launches) -> None:
        """Does what `launches` does, on the current stream."""
        if kind not in self._seen or not self._capturing:
            self._seen.add(kind)
            launches()
            return
        if kind not in self._graphs and not self._capture(kind, launches):
            launches()
            return
        self._graphs[kind].replay()
        self.replays += 1

    def _capture(self, kind: Hashable, launches: Launches) -> bool:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                launches()
        except RuntimeError as error:
            self._capturing = False
            if self._announce is not None:
                line = str(error).partition("\n")[0]
                self._announce(f"steps are launched kernel by kernel, which is slower: no graph could be made: {line}")
            return False
        self._graphs[kind] = graph
        return True
