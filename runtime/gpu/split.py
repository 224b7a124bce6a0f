"""How many of the experts that a layer misses are fetched; the host computes the others where they lie."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from runtime.gpu.costs import Correction


class Split(Protocol):
    """A table, and what becomes of it as steps are measured."""

    @property
    def fetch_of(self) -> Tensor:
        """Of so many missing, how many are fetched: int32 [D + 1]."""
        ...

    def observe(self, fetched: int, in_place: int, seconds: float) -> Tensor | None:
        """A step fetched and computed in place so many experts in all its layers; a new table where it is better."""
        ...


class FixedSplit:
    """The host computes a given part of what is missing, whatever that costs."""

    def __init__(self, host_share: float, most: int) -> None:
        missing = torch.arange(most + 1)
        self.fetch_of = (missing - (host_share * missing).round()).to(torch.int32)

    def observe(self, fetched: int, in_place: int, seconds: float) -> Tensor | None:
        return None


class MeasuredSplit:
    """The split that is measured to be done soonest, corrected by the steps that are taken."""

    def __init__(self, correction: Correction) -> None:
        self._correction = correction

    @property
    def fetch_of(self) -> Tensor:
        return self._correction.fetch_of

    def observe(self, fetched: int, in_place: int, seconds: float) -> Tensor | None:
        return self.fetch_of if self._correction.step(fetched, in_place, seconds) else None
