"""What a model needs of whoever keeps its experts, wherever they are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kernels.ops import ExpertPool, Wave
from runtime.pack_layout import ExpertGeometry
from runtime.stats import PagingStats

ComputeWave = Callable[[Wave], Tensor]


class Pager(Protocol):
    """Keeps some experts where they are computed and brings the others. Layers are counted among those with experts.

    A step calls `begin_step`, then for each layer `ask` and `compute`, with `guess` for the next layer in between, then
    `end_step`. What is computed has the same bits whatever is resident. One thread uses it.
    """

    totals: NDArray[np.int64]  # uses of every expert

    @property
    def geometry(self) -> ExpertGeometry: ...

    @property
    def guesses(self) -> bool:
        """Whether `guess` is wanted in this step."""
        ...

    def pool(self, layer: int) -> ExpertPool:
        """The experts of a layer; its addresses change as they come and go."""
        ...

    def begin_step(self, rows: int) -> None:
        """A forward pass over so many tokens begins."""
        ...

    def end_step(self) -> None: ...

    def ask(self, layer: int, ids: Tensor) -> Any:
        """A layer needs the experts ids [T, K]. What is returned is for `compute`."""
        ...

    def guess(self, layer: int, ids: Tensor) -> None:
        """A layer to come may need the experts ids [T, K]."""
        ...

    def compute(self, visit: Any, compute_wave: ComputeWave) -> Tensor:
        """The layer's output, wave by wave as experts arrive. Raises ExpertReadError."""
        ...

    def stats(self) -> PagingStats: ...

    def check_integrity(self) -> None:
        """Raises RuntimeError unless all that is known of experts agrees."""
        ...

    def close(self) -> None: ...
