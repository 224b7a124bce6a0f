"""How llama.cpp may load a model, and which way serves it best."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.worker import Worker
from bench.workload import MEASURES

# Tokens per second of each measure.
Rates = Mapping[str, float]


@dataclass(frozen=True)
class PeerSettings:
    """Whether it maps the file, and whether it rearranges weights for its fastest kernels."""

    mmap: bool
    repack: bool

    def __str__(self) -> str:
        return f"mmap {'on' if self.mmap else 'off'}, repack {'on' if self.repack else 'off'}"

    @property
    def flags(self) -> list[str]:
        return ["--mmap" if self.mmap else "--no-mmap", "--repack" if self.repack else "--no-repack"]


@dataclass(frozen=True)
class Tried:
    """What it reaches with them."""

    settings: PeerSettings
    rates: Rates


# Its own default first.
ALL_SETTINGS = tuple(PeerSettings(mmap, repack) for repack in (True, False) for mmap in (True, False))


def try_all(start: Callable[[PeerSettings], Worker], told: Callable[[Tried], None]) -> list[Tried]:
    """One run of each measure with each of the settings."""
    tried: list[Tried] = []
    for settings in ALL_SETTINGS:
        worker = start(settings)
        rates = {m.name: m.tokens_per_step / statistics.median(worker.ask(m.name, 1)) for m in MEASURES}
        worker.close()
        tried.append(Tried(settings, rates))
        told(tried[-1])
    return tried


def best_settings(tried: Sequence[Tried]) -> dict[str, PeerSettings]:
    """The way to load that is fastest overall; with it, for each measure, the weights' order that is faster for it."""
    mmap = max(tried, key=lambda each: statistics.geometric_mean(each.rates.values())).settings.mmap
    same = [each for each in tried if each.settings.mmap == mmap]
    return {m.name: max(same, key=lambda each: each.rates[m.name]).settings for m in MEASURES}
