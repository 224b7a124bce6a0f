"""Paging: for each layer step the experts it needs are found or fetched, and the layer is computed wave by wave."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kernels.ops import ExpertPool, Wave
from runtime.errors import AntangelError
from runtime.experts.cache import ExpertCache
from runtime.experts.lookahead import Lookahead
from runtime.experts.paging import ComputeWave
from runtime.experts.plan import ExpertPlan, plan_experts
from runtime.experts.policy import Rhythm, make_policy
from runtime.experts.store import ExpertStore
from runtime.experts.transfer import Arrival, Cause, ExpertTransfer
from runtime.pack_layout import ExpertGeometry
from runtime.stats import PagingStats

# From so many tokens on nearly every expert of a layer is used, and a step is a pass over the whole model.
PASSING_ROWS = 64

# Experts of the next layer that are read ahead during a pass: while attention runs no layer asks for any.
PASS_AHEAD = 48


@dataclass
class Visit:
    """A layer step under way: what it needs, and which of that is pinned."""

    layer: int
    plan: ExpertPlan
    passing: bool
    pinned: set[int] = field(default_factory=set)


class ExpertPager:
    """Keeps some experts of a model in slots and the rest on disk. Layers are counted among those with experts.

    A step calls `begin_step`, then for each layer `ask` and `compute`, with `guess` for the next layer in between, then
    `end_step`. What is computed has the same bits whatever is resident. One thread uses it.
    """

    def __init__(
        self, store: ExpertStore, cache: ExpertCache, readers: int, lookahead: Lookahead, pass_layers: int
    ) -> None:
        self.store = store
        self._pass_layers = pass_layers
        self.cache = cache
        self.lookahead = lookahead
        self.totals: NDArray[np.int64] = np.zeros(store.geometry.blobs, dtype=np.int64)
        self._places = [memoryview(slot.numpy()) for slot in cache.memory]
        self._transfer = ExpertTransfer(lambda blob, slot: store.read(blob, self._places[slot]), readers)
        self._now = -1
        self._under_way = False
        self._step_rows = 0
        self._step_started = 0.0
        self._errors: dict[int, AntangelError] = {}
        self._guesses: dict[int, set[int]] = {}
        self._read_ahead: set[int] = set()
        self._counts: Counter[str] = Counter()
        self._read: Counter[Cause] = Counter()
        self._stall_seconds = 0.0

    @classmethod
    def open(
        cls,
        store: ExpertStore,
        slots: int,
        *,
        policy: str | None,
        lookahead: str,
        readers: int,
        experts_per_token: int,
        pass_layers: int | None = None,
    ) -> ExpertPager:
        """A pager with empty slots. A pass goes over the first `pass_layers` with experts, all unless told.

        Raises OptionError for a policy that does not exist.
        """
        geometry = store.geometry
        rhythm = Rhythm.of(len(geometry.layers), geometry.count, experts_per_token)
        cache = ExpertCache(geometry, slots, make_policy(policy, rhythm))
        layers = len(store.geometry.layers) if pass_layers is None else pass_layers
        return cls(store, cache, readers, Lookahead(lookahead), layers)

    @property
    def geometry(self) -> ExpertGeometry:
        return self.store.geometry

    def pool(self, layer: int) -> ExpertPool:
        return self.cache.pool(layer)

    def begin_step(self, rows: int) -> None:
        """A forward pass over so many tokens begins."""
        if self._under_way:
            self._recover()
        self._under_way = True
        self._step_rows, self._step_started = rows, time.perf_counter()
        self._guesses.clear()
        self._read_ahead.clear()

    def end_step(self) -> None:
        self._under_way = False
        if self._step_rows < PASSING_ROWS:
            self.lookahead.step(time.perf_counter() - self._step_started)

    @property
    def guesses(self) -> bool:
        """Whether `guess` is wanted in this step."""
        return self.lookahead.active and self._step_rows < PASSING_ROWS

    def ask(self, layer: int, ids: Tensor) -> Visit:
        """A layer needs the experts ids [T, K]: asks for those that are missing, as far as there are slots."""
        self._advance(layer)
        self._take(self._transfer.collect())
        needed, rows = np.unique(ids.numpy(), return_counts=True)
        experts = needed + layer * self.cache.geometry.count
        resident = self.cache.resident_of(experts)
        self.totals[experts] += rows
        passing = self._step_rows >= PASSING_ROWS
        (self._count_pass if passing else self._count_uses)(layer, experts, resident)
        plan = plan_experts(needed.tolist(), resident.tolist(), self.cache.slots)
        visit = Visit(layer, plan, passing)
        if not passing:
            self.cache.touch(experts, self._now)
        self._pin(visit, [self._blob(layer, expert) for expert in plan.held])
        for wave in range(2):
            self._ask_wave(visit, wave, wait=False)
        return visit

    def guess(self, layer: int, ids: Tensor) -> None:
        """A layer to come may need the experts ids [T, K]: reads them ahead where something may leave for them."""
        experts = [self._blob(layer, expert) for expert in np.unique(ids.numpy()).tolist()]
        self._guesses[layer] = set(experts)
        self._counts["guessed"] += len(experts)
        there = [expert for expert in experts if self.cache.has_slot(expert)]
        self.cache.pin(there)
        try:
            for expert in experts:
                if not self.cache.has_slot(expert) and not self._read_guess(expert):
                    break
        finally:
            self.cache.unpin(there)

    def compute(self, visit: Visit, compute_wave: ComputeWave) -> Tensor:
        """The layer's output, wave by wave as experts arrive. Raises ExpertReadError."""
        waves, total = visit.plan.waves, None
        try:
            for number, wave in enumerate(waves):
                self._ask_wave(visit, number, wait=True)
                self._ask_wave(visit, number + 1, wait=False)
                if visit.passing and number + 2 >= len(waves):
                    self._read_pass_ahead(visit.layer + 1)
                self._await(visit.layer, wave)
                is_last = number + 1 == len(waves)
                stop = self.cache.geometry.count if is_last else waves[number + 1][0]
                total = compute_wave(Wave(wave[0] if number else 0, stop, total, is_last))
                self._unpin(visit, [self._blob(visit.layer, expert) for expert in wave])
        finally:
            self._unpin(visit, list(visit.pinned))
        self._counts["waves"] += len(waves)
        assert total is not None
        return total

    def warm(self, totals: NDArray[np.int64]) -> None:
        """Reads the experts that were used most in earlier runs into slots that are free, the most used first."""
        order = np.argsort(-totals, kind="stable")[: self.cache.slots]
        order = order[totals[order] > 0]
        # As if each had been used once, the most used last.
        for age, expert in enumerate(order):
            self.cache.touch(np.array([expert]), self._now - age)
        for expert in order.tolist():
            slot = (
                self.cache.reserve(expert, self._now)
                if self.cache.has_free and not self.cache.has_slot(expert)
                else None
            )
            if slot is not None:
                self._transfer.request(expert, slot, Cause.PREWARM)

    def settle(self) -> None:
        """Waits for all reads under way."""
        while self._transfer.pending:
            self._take(self._transfer.wait())

    def stats(self) -> PagingStats:
        size, counts = self.cache.geometry.blob_bytes, self._counts
        return PagingStats(
            policy=self.cache.policy.name,
            lookahead=str(self.lookahead),
            experts=self.cache.geometry.blobs,
            slots=self.cache.slots,
            resident=self.cache.resident,
            uses=counts["uses"],
            hits=counts["hits"],
            late=counts["late"],
            misses=counts["uses"] - counts["hits"] - counts["late"],
            in_place=0,
            pass_uses=counts["pass_uses"],
            pass_hits=counts["pass_hits"],
            demand_bytes=size * (self._read[Cause.DEMAND] + self._read[Cause.PASS]),
            lookahead_bytes=size * self._read[Cause.LOOKAHEAD],
            prewarm_bytes=size * self._read[Cause.PREWARM],
            guessed=counts["guessed"],
            guessed_right=counts["guessed_right"],
            not_guessed=counts["not_guessed"],
            wasted=counts["wasted"],
            evictions=self.cache.evictions,
            waves=counts["waves"],
            verified=self.store.verified,
            stall_seconds=self._stall_seconds,
        )

    def check_integrity(self) -> None:
        """Raises RuntimeError unless the cache is sound and nothing is pinned between steps."""
        self.cache.check_integrity()
        if self.cache.pinned and not self._under_way:
            raise RuntimeError("a slot is pinned, and no layer is being computed")

    def close(self) -> None:
        """Ends the readers and closes the file."""
        while (expert := self._transfer.take_back()) is not None:
            self.cache.abandon(expert)
        self._transfer.close()
        self.store.close()

    def _recover(self) -> None:
        """A step was broken off: no pin of it holds any longer, and what it asked for is either on its way or not."""
        self.cache.unpin_all()
        for expert in self.cache.arriving():
            if not self._transfer.has(expert):
                self.cache.abandon(expert)

    def _advance(self, layer: int) -> None:
        """To the next layer step that is one of this layer's."""
        layers = len(self.cache.geometry.layers)
        self._now += (layer - self._now) % layers or layers

    def _blob(self, layer: int, expert: int) -> int:
        return layer * self.cache.geometry.count + expert

    def _count_uses(self, layer: int, experts: NDArray[np.int64], resident: NDArray[np.bool_]) -> None:
        late = sum(self.cache.has_slot(expert) for expert in experts[~resident].tolist())
        self._counts.update(uses=len(experts), hits=int(resident.sum()), late=late)
        guessed = self._guesses.pop(layer, None)
        if guessed is None:
            return
        needed = set(experts.tolist())
        wasted = self._read_ahead & (guessed - needed)
        self._read_ahead -= guessed
        self._counts.update(guessed_right=len(guessed & needed), not_guessed=len(needed - guessed), wasted=len(wasted))

    def _count_pass(self, layer: int, experts: NDArray[np.int64], resident: NDArray[np.bool_]) -> None:
        before = sum(expert not in self._read_ahead for expert in experts[resident].tolist())
        self._counts.update(pass_uses=len(experts), pass_hits=before)

    def _read_pass_ahead(self, layer: int) -> None:
        """The first experts of the layer that a pass comes to next, as slots allow."""
        if layer >= self._pass_layers:
            return
        first = layer * self.cache.geometry.count
        missing = (e for e in range(first, first + self.cache.geometry.count) if not self.cache.has_slot(e))
        most = min(PASS_AHEAD, self.cache.slots // 4) - self._transfer.pending
        for expert in islice(missing, max(0, most)):
            slot = self.cache.reserve(expert, self._now, passing=True)
            if slot is None:
                return
            self._read_ahead.add(expert)
            self._transfer.request(expert, slot, Cause.PASS)

    def _ask_wave(self, visit: Visit, number: int, *, wait: bool) -> None:
        """Asks for what a wave misses. Without `wait` only as far as something may leave for it now."""
        for expert in self._wave(visit, number):
            if expert in visit.pinned:
                continue
            if self.cache.has_slot(expert):
                if not self.cache.is_resident(expert):
                    self._transfer.hasten(expert)
            else:
                slot = self._slot(expert, visit.passing, wait=wait)
                if slot is None:
                    return
                self._errors.pop(expert, None)
                self._transfer.request(expert, slot, Cause.DEMAND)
            self._pin(visit, [expert])

    def _wave(self, visit: Visit, number: int) -> Sequence[int]:
        waves = visit.plan.waves
        return [self._blob(visit.layer, expert) for expert in waves[number]] if number < len(waves) else ()

    def _slot(self, expert: int, passing: bool, *, wait: bool) -> int | None:
        """A slot for a needed expert, at the cost of guesses that are not being read yet."""
        while (slot := self.cache.reserve(expert, self._now, passing=passing)) is None:
            guess = self._transfer.take_back()
            if guess is not None:
                self._read_ahead.discard(guess)
                self.cache.abandon(guess)
            elif not wait:
                return None
            else:
                self._wait()
        return slot

    def _read_guess(self, expert: int) -> bool:
        """Whether there was a slot for it."""
        slot = self.cache.reserve(expert, self._now)
        if slot is None:
            return False
        self._read_ahead.add(expert)
        self._transfer.request(expert, slot, Cause.LOOKAHEAD)
        return True

    def _await(self, layer: int, wave: Sequence[int]) -> None:
        for expert in (self._blob(layer, expert) for expert in wave):
            while not self.cache.is_resident(expert):
                if expert in self._errors:
                    raise self._errors.pop(expert)
                self._wait()

    def _wait(self) -> None:
        started = time.perf_counter()
        try:
            self._take(self._transfer.wait())
        finally:
            self._stall_seconds += time.perf_counter() - started

    def _take(self, arrivals: Sequence[Arrival]) -> None:
        for arrival in arrivals:
            if arrival.error is None:
                self.cache.publish(arrival.expert)
                self._read[arrival.cause] += 1
            else:
                self.cache.abandon(arrival.expert)
                self._errors[arrival.expert] = arrival.error

    def _pin(self, visit: Visit, experts: Sequence[int]) -> None:
        self.cache.pin(experts)
        visit.pinned.update(experts)

    def _unpin(self, visit: Visit, experts: Sequence[int]) -> None:
        self.cache.unpin(experts)
        visit.pinned.difference_update(experts)
