"""Which implementation of each op this machine gets, and why the others were refused."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch

from kernels.ops import Ops

# Modules that register implementations when they are imported.
BACKENDS = ("kernels.reference", "kernels.floating", "kernels.cpu", "kernels.gpu")

# Told one line when choosing takes seconds, as a first compilation does.
Announce = Callable[[str], None]

# None, or the reason why a device can't have an implementation for residual streams of a dtype.
Supports = Callable[[torch.device, torch.dtype, Announce | None], str | None]


@dataclass(frozen=True)
class Implementation:
    """One way to compute an op. Of those a device supports, the one of highest rank is chosen."""

    op: str
    name: str
    rank: int
    function: Callable[..., Any]
    supports: Supports


@dataclass(frozen=True)
class Refusal:
    """An implementation that a device doesn't get, and why."""

    op: str
    name: str
    reason: str


@dataclass(frozen=True)
class Choice:
    """The ops of a device; `names` says which implementation each op got."""

    ops: Ops
    names: dict[str, str]
    refusals: tuple[Refusal, ...]


_registered: dict[tuple[str, str], Implementation] = {}


def register(op: str, name: str, function: Callable[..., Any], *, rank: int, supports: Supports) -> None:
    """Adds an implementation."""
    _registered[op, name] = Implementation(op, name, rank, function, supports)


def implementations(op: str) -> tuple[Implementation, ...]:
    """All implementations of an op, highest rank first."""
    for backend in BACKENDS:
        importlib.import_module(backend)
    found = [implementation for (of, _), implementation in _registered.items() if of == op]
    return tuple(sorted(found, key=lambda implementation: -implementation.rank))


def choose(
    device: torch.device | str, dtype: torch.dtype = torch.float32, *, announce: Announce | None = None, only: str = ""
) -> Choice:
    """The best supported implementation of each op, of those whose name has all words of `only`.

    `announce` is told why the least demanding kernels were refused, where plain torch is all there is.

    Raises LookupError when there is none.
    """
    refusals: list[Refusal] = []
    target = torch.device(device), dtype, announce
    chosen = {field.name: _best(field.name, only, target, refusals) for field in fields(Ops)}
    if announce is not None and not only and refusals and all(one.rank == 0 for one in chosen.values()):
        # On a GPU the best kernels are the only ones, on a CPU the last are what any processor runs.
        decisive = refusals[0 if target[0].type == "cuda" else -1]
        announce(f"plain torch computes, which is slow: {decisive.reason}")
    ops = Ops(**{op: implementation.function for op, implementation in chosen.items()})
    names = {op: implementation.name for op, implementation in chosen.items()}
    return Choice(ops, names, tuple(refusals))


def _best(
    op: str, only: str, target: tuple[torch.device, torch.dtype, Announce | None], refusals: list[Refusal]
) -> Implementation:
    for implementation in implementations(op):
        if not set(only.split()) <= set(implementation.name.split()):
            continue
        reason = implementation.supports(*target)
        if reason is None:
            return implementation
        refusals.append(Refusal(op, implementation.name, reason))
    raise LookupError(f"no implementation of {op} supports {target[0]} with {target[1]}")
