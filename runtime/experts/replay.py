"""What a policy would have made of a recorded trace: hit rates without a model, at any number of slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.experts.pager import PASSING_ROWS
from runtime.experts.policy import NEVER, POLICIES, EvictionPolicy, Indices, make_policy
from runtime.experts.trace import Step, Trace, is_decode

SCHEMA = "antangel.replay/1"
SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)
BELADY = "belady"
NOWHERE = -1

# Told curves done, of how many.
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Uses:
    """Uses of experts, counted as PagingStats does: one for each distinct expert of a layer step."""

    uses: int = 0
    hits: int = 0

    @property
    def hit_rate(self) -> float | None:
        """None with no use."""
        return self.hits / self.uses if self.uses else None

    def __add__(self, other: Uses) -> Uses:
        return Uses(self.uses + other.uses, self.hits + other.hits)


@dataclass(frozen=True)
class Point:
    """What `slots` gave, which are a share of all experts: in steps of one token, and in all but passes."""

    share: float
    slots: int
    decode: Uses
    every: Uses

    def to_json(self) -> dict[str, Any]:
        return {
            "share": self.share,
            "slots": self.slots,
            "decode_hit_rate": _rounded(self.decode.hit_rate),
            "hit_rate": _rounded(self.every.hit_rate),
        }


@dataclass(frozen=True)
class HitCurve:
    """The hit rates of one policy by share of experts that have a slot."""

    policy: str
    points: tuple[Point, ...]

    def to_json(self) -> dict[str, Any]:
        return {"policy": self.policy, "points": [point.to_json() for point in self.points]}


@dataclass(frozen=True)
class Replay:
    """A trace in numbers, and the curves of policies over it, Belady's last."""

    trace: Trace
    curves: tuple[HitCurve, ...]

    def to_json(self) -> dict[str, Any]:
        trace = self.trace
        return {
            "schema": SCHEMA,
            "layers": trace.layers,
            "experts": trace.experts,
            "experts_per_token": trace.experts_per_token,
            "steps": len(trace.steps),
            "decode_steps": sum(map(is_decode, trace.steps)),
            "tokens": trace.tokens,
            "curves": [curve.to_json() for curve in self.curves],
        }


def replay(
    trace: Trace,
    policies: Sequence[str] = tuple(POLICIES),
    shares: Sequence[float] = SHARES,
    progress: Progress | None = None,
) -> Replay:
    """The curves of policies and of Belady. Raises ConfigError for a name that is no policy."""
    curves: list[HitCurve] = []
    for name in (*policies, BELADY):
        curves.append(hit_curve(trace, name, shares))
        if progress is not None:
            progress(len(curves), len(policies) + 1)
    return Replay(trace, tuple(curves))


def hit_curve(trace: Trace, policy: str, shares: Sequence[float] = SHARES) -> HitCurve:
    """Hit rates of a policy, or of BELADY, with these shares of all experts in slots, at least one each."""
    uses = layer_uses(trace)
    points = []
    for share in shares:
        slots = max(1, int(share * trace.blobs))
        points.append(Point(share, slots, *_run(trace, uses, _cache(trace, uses, policy, slots))))
    return HitCurve(policy, tuple(points))


def layer_uses(trace: Trace) -> list[Indices]:
    """The distinct experts of each layer step in order, numbered layer by layer."""
    return [
        layer * trace.experts + np.unique(ids).astype(np.int64)
        for step in trace.steps
        for layer, ids in enumerate(step)
    ]


def is_pass(step: Step) -> bool:
    """Whether a step goes over nearly all experts: a cache neither counts nor remembers what it used."""
    return bool(step.shape[1] >= PASSING_ROWS)


class _Slots(Protocol):
    def use(self, experts: Indices, now: int, passing: bool) -> int:
        """Uses distinct experts of a layer at once; how many had a slot."""
        ...


def _cache(trace: Trace, uses: Sequence[Indices], policy: str, slots: int) -> _Slots:
    if policy == BELADY:
        return _Belady(_next_uses(trace, uses), slots, trace.blobs)
    return _Cache(make_policy(policy, trace.rhythm), slots, trace.blobs)


def _run(trace: Trace, uses: Sequence[Indices], slots: _Slots) -> tuple[Uses, Uses]:
    """Uses in steps of one token, and in all but passes, with slots that are empty at first."""
    decode, every, now = Uses(), Uses(), 0
    for step in trace.steps:
        count, passing = Uses(), is_pass(step)
        for experts in uses[now : now + trace.layers]:
            count += Uses(len(experts), slots.use(experts, now, passing))
            now += 1
        decode += count if is_decode(step) else Uses()
        every += Uses() if passing else count
    return decode, every


class _Cache:
    """Slots over all experts as ExpertCache has them, without bytes: what a layer step needs is pinned."""

    def __init__(self, policy: EvictionPolicy, slots: int, experts: int) -> None:
        self._policy = policy
        self._scores = np.zeros((policy.rows, experts))
        self._slot_of = np.full(experts, NOWHERE)
        self._expert_in = np.full(slots, NOWHERE)
        self._passing = np.zeros(slots, dtype=np.int64)
        self._used = 0

    def use(self, experts: Indices, now: int, passing: bool) -> int:
        """Where there are more than slots they come in waves of all slots."""
        slots, missing = self._slot_of[experts], experts[self._slot_of[experts] == NOWHERE]
        if not passing:
            self._policy.touch(self._scores, experts, now)
            self._passing[slots[slots != NOWHERE]] = 0
        size = len(self._expert_in)
        waves = [missing[start : start + size] for start in range(0, len(missing), size)]
        for wave in waves:
            self._bring(wave, wave if len(experts) > size else experts, now, passing)
        return len(experts) - len(missing)

    def _bring(self, missing: Indices, pinned: Indices, now: int, passing: bool) -> None:
        held = np.zeros(len(self._expert_in), dtype=bool)
        slots = self._slot_of[pinned]
        held[slots[slots != NOWHERE]] = True
        for expert in missing:
            slot = self._free_slot(held, now, passing)
            held[slot] = True
            self._expert_in[slot], self._slot_of[expert] = expert, slot
            self._passing[slot] = now + 1 if passing else 0

    def _free_slot(self, held: NDArray[np.bool_], now: int, passing: bool) -> int:
        if self._used < len(self._expert_in):
            self._used += 1
            return self._used - 1
        slot = self._victim(held, now, passing)
        leaving = int(self._expert_in[slot])
        self._slot_of[leaving] = NOWHERE
        self._policy.left(self._scores, leaving)
        return slot

    def _victim(self, held: NDArray[np.bool_], now: int, passing: bool) -> int:
        """What a pass brought leaves before all else."""
        passed = ~held & (self._passing > 0)
        if passed.any() and passing:
            return int(np.where(passed, self._passing, 0).argmax())
        return self._policy.victim(self._scores.take(self._expert_in, axis=1), ~passed if passed.any() else held, now)


class _Belady:
    """What is used again the latest leaves: a bound that knows the trace (Belady, IBM Systems Journal 5(2), 1966).

    Where a layer step needs more than all slots, nothing is pinned, and what is used the soonest stays.
    """

    def __init__(self, next_uses: Sequence[NDArray[np.float64]], slots: int, experts: int) -> None:
        self._next_uses = next_uses
        self._slots = slots
        self._next = np.full(experts, NEVER)
        self._resident = np.zeros(experts, dtype=bool)

    def use(self, experts: Indices, now: int, passing: bool) -> int:
        hits = int(np.count_nonzero(self._resident[experts]))
        self._resident[experts] = True
        self._next[experts] = NOWHERE if len(experts) <= self._slots else self._next_uses[now]
        there = np.flatnonzero(self._resident)
        leaving = there[self._next[there].argsort(kind="stable")][self._slots :]
        self._resident[leaving] = False
        self._next[experts] = self._next_uses[now]
        return hits


def _next_uses(trace: Trace, uses: Sequence[Indices]) -> list[NDArray[np.float64]]:
    """For each layer step, when each of its experts is used the next time; never, where a pass brings it before."""
    following = np.full(trace.blobs, NEVER)
    found: list[NDArray[np.float64]] = []
    for now in reversed(range(len(uses))):
        found.append(following[uses[now]])
        following[uses[now]] = NEVER if is_pass(trace.steps[now // trace.layers]) else now
    return found[::-1]


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 4)
