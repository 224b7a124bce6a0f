"""What the engine has done so far, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TIMES_KEPT = 1024


@dataclass(frozen=True)
class PagingStats:
    """What paging did. A use is one expert needed by one layer in one step, however many tokens go to it.

    Steps of 64 tokens and more need nearly every expert: these passes are counted apart, and `pass_hits` of their
    `pass_uses` were in memory from before. Of the other `uses`, `hits` found the expert in memory, `late` on its way
    after a guess, and `misses` had to ask for it, of which
    the host computed `in_place` where they lay. Bytes are those read from disk: for misses, for guesses, and to warm
    the cache at the start. Of the experts that were `guessed`, `guessed_right` were needed and `wasted` were read and
    left unused; `not_guessed` were needed while guessing was on, and were not guessed.
    """

    policy: str
    lookahead: str
    experts: int
    slots: int
    resident: int
    uses: int
    hits: int
    late: int
    misses: int
    in_place: int
    pass_uses: int
    pass_hits: int
    demand_bytes: int
    lookahead_bytes: int
    prewarm_bytes: int
    guessed: int
    guessed_right: int
    not_guessed: int
    wasted: int
    evictions: int
    waves: int
    verified: int
    stall_seconds: float

    @property
    def bytes_moved(self) -> int:
        return self.demand_bytes + self.lookahead_bytes + self.prewarm_bytes

    @property
    def hit_rate(self) -> float | None:
        """The share of uses that found their expert in memory; None with no use."""
        return self.hits / self.uses if self.uses else None


@dataclass(frozen=True)
class EngineStats:
    """Counts since the engine was loaded; times in seconds.

    `prefill_seconds` are those of steps with any prompt token in them, `decode_seconds` of all others.
    `paging` is None where all experts are in memory; `shared_tokens` of prompts were in the cache already.
    `ttft_seconds` is per sequence, of the most recent ones.
    `masks_overlapped` counts grammar masks that were ready when the forward pass was. `mtp_hits` of `mtp_drafts` greedy
    tokens were as the MTP layer drafted.
    """

    prompt_tokens: int
    generated_tokens: int
    decode_tokens: int
    prefill_seconds: float
    decode_seconds: float
    model_seconds: float
    ttft_seconds: Mapping[int, float]
    shared_by_sequence: Mapping[int, int]
    kv_blocks_free: int
    kv_blocks_total: int
    peak_running: int
    preemptions: int
    shared_tokens: int
    forced_tokens: int
    masks: int
    masks_overlapped: int
    mask_wait_seconds: float
    mtp_drafts: int
    mtp_hits: int
    paging: PagingStats | None

    @property
    def mtp_acceptance(self) -> float | None:
        """The share of drafts that were right; None with none drafted."""
        return self.mtp_hits / self.mtp_drafts if self.mtp_drafts else None


@dataclass
class Counters:
    """What EngineStats is made from, while it still changes."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    decode_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    model_seconds: float = 0.0
    peak_running: int = 0
    forced_tokens: int = 0
    masks: int = 0
    masks_overlapped: int = 0
    mask_wait_seconds: float = 0.0
    mtp_drafts: int = 0
    mtp_hits: int = 0
    ttft_seconds: dict[int, float] = field(default_factory=dict)
    shared_by_sequence: dict[int, int] = field(default_factory=dict)

    def count_step(self, prompt_rows: int, drawn: int, seconds: float) -> None:
        self.prompt_tokens += prompt_rows
        if prompt_rows:
            self.prefill_seconds += seconds
        else:
            self.decode_seconds += seconds
            self.decode_tokens += drawn

    def count_first(self, sequence_id: int, seconds: float, shared: int) -> None:
        """Notes a time to first token, and tokens shared; the oldest note goes when there are too many."""
        self.ttft_seconds[sequence_id] = seconds
        self.shared_by_sequence[sequence_id] = shared
        if len(self.ttft_seconds) > TIMES_KEPT:
            oldest = next(iter(self.ttft_seconds))
            del self.ttft_seconds[oldest], self.shared_by_sequence[oldest]
