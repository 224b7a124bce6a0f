"""What becomes of each expert that a layer needs in a step: it is there, it is fetched, or computed where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from runtime.experts.cost import CostTable

# Experts of a wave at most: the next arrive while these are computed, and each wave quantises the input anew.
WAVE = 16


class Action(StrEnum):
    """How an expert is computed."""

    RESIDENT = "resident"
    FETCH = "fetch"
    IN_PLACE = "compute in place"


@dataclass(frozen=True)
class PlannedExpert:
    """An expert of a layer, by its id there, with the reason for what is done with it."""

    id: int
    action: Action
    reason: str


@dataclass(frozen=True)
class ExpertPlan:
    """All experts of a layer step in ascending order, and how many of them each wave computes.

    `held` are the resident ones that stay until their wave; others make way when slots are short, and are fetched.
    """

    experts: tuple[PlannedExpert, ...]
    waves: tuple[tuple[int, ...], ...]
    held: frozenset[int]

    def acting(self, action: Action) -> tuple[int, ...]:
        return tuple(expert.id for expert in self.experts if expert.action == action)


def plan_experts(
    needed: Sequence[int], resident: Sequence[bool], room: int, costs: CostTable | None = None
) -> ExpertPlan:
    """Plans the experts `needed`, ascending, some of them `resident`, with `room` slots for all of them.

    Without `costs` a missing expert cannot be computed where it lies. One slot is enough: then each wave is one expert.
    """
    if room < 1:
        raise ValueError("a layer with experts needs a slot")
    there = [expert for expert, is_there in zip(needed, resident, strict=True) if is_there]
    in_place = _in_place(needed, resident, costs)
    in_slots = len(needed) - len(in_place)
    wave = WAVE if in_slots <= room else max(1, min(WAVE, room // 4))
    held = frozenset(there if in_slots <= room else there[: max(0, room - 2 * wave)])
    experts = tuple(
        PlannedExpert(expert, *_choice(expert in held, is_there, expert in in_place, costs))
        for expert, is_there in zip(needed, resident, strict=True)
    )
    return ExpertPlan(experts, _waves(needed, wave), held)


def _in_place(needed: Sequence[int], resident: Sequence[bool], costs: CostTable | None) -> frozenset[int]:
    """The last of the missing: the first ones are wanted soonest."""
    missing = [expert for expert, is_there in zip(needed, resident, strict=True) if not is_there]
    return frozenset() if costs is None else frozenset(missing[costs.fetched(len(missing)) :])


def _choice(held: bool, resident: bool, in_place: bool, costs: CostTable | None) -> tuple[Action, str]:
    if held:
        return Action.RESIDENT, "it has a slot"
    if resident:
        return Action.FETCH, "its slot may be needed before its turn: the layer needs more experts than there are slots"
    if in_place:
        return Action.IN_PLACE, "computing it where it lies is done sooner than fetching it"
    if costs is None:
        return Action.FETCH, "it is on disk, where nothing computes"
    return Action.FETCH, "fetching it costs no more time than the others take"


def _waves(experts: Sequence[int], size: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(experts[i : i + size]) for i in range(0, len(experts), size))
