"""What a model does on this machine, measured through the engine as anybody uses it: one round cold, others warm."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from runtime.config import EngineConfig
from runtime.engine import Engine
from runtime.errors import AntangelError, ConfigError
from runtime.experts.trace import TraceWriter
from runtime.gpu.vram import GpuPlan
from runtime.hardware import processor_name, usable_cores
from runtime.memory import MemoryPlan, peak_memory
from runtime.pack import is_pack
from runtime.pack_manifest import EXPERTS, Manifest
from runtime.rates import Rate, disk_rate
from runtime.request import NO_TOKEN, Request, Stage
from runtime.sampling import SamplingParams
from runtime.stats import EngineStats, PagingStats
from runtime.template import Message
from runtime.tokenizer import Tokenizer

# Told tokens made, and how many in all.
Told = Callable[[int, int], None]

# What PagingStats counts, and so can be counted from one moment to another.
COUNTED = (
    "uses",
    "hits",
    "late",
    "misses",
    "pass_uses",
    "pass_hits",
    "demand_bytes",
    "lookahead_bytes",
    "prewarm_bytes",
    "guessed",
    "guessed_right",
    "not_guessed",
    "wasted",
    "evictions",
    "waves",
    "verified",
    "stall_seconds",
)

Counts = Mapping[str, float]

# What is done to an engine before its first request.
Prepare = Callable[[Engine], None]


class BenchmarkError(AntangelError):
    """A request of the workload did not come to its end."""


@dataclass(frozen=True)
class Workload:
    """Rounds of `batch` requests at once, each with a prompt of its own and `new_tokens` after it.

    `prompts` are conversations, taken in turn. With `prompt_tokens` each prompt has so many, the last of one
    conversation after another. The first round is cold, `warm_rounds` follow it.
    """

    prompts: Sequence[Sequence[Message]] = field(repr=False)
    prompt_tokens: int | None = None
    new_tokens: int = 64
    batch: int = 1
    warm_rounds: int = 3

    def __post_init__(self) -> None:
        for name, least in (("new_tokens", 2), ("batch", 1), ("warm_rounds", 0), ("prompt_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}", f"Use at least {least}.")
        if not self.prompts:
            raise ConfigError("the workload has no prompt", "Give at least one conversation.")

    @property
    def tokens(self) -> int:
        """New tokens of all rounds."""
        return (1 + self.warm_rounds) * self.batch * self.new_tokens

    def rounds(self, tokenizer: Tokenizer) -> list[list[tuple[int, ...]]]:
        """The prompts of every round."""
        rendered = [tuple(tokenizer.render(each)) for each in self.prompts]
        turns = cycle(range(len(rendered)))
        count = 1 + self.warm_rounds
        return [[self._prompt(rendered, turn) for turn in islice(turns, self.batch)] for _ in range(count)]

    def _prompt(self, rendered: Sequence[tuple[int, ...]], turn: int) -> tuple[int, ...]:
        if self.prompt_tokens is None:
            return rendered[turn]
        ids: tuple[int, ...] = rendered[turn]
        while len(ids) < self.prompt_tokens:
            turn = (turn - 1) % len(rendered)
            ids = rendered[turn] + ids
        return ids[-self.prompt_tokens :]


@dataclass(frozen=True)
class Stretch:
    """A part of a round: tokens read or made, seconds taken, tokens a second of each step, and what paging did."""

    tokens: int
    seconds: float
    rates: tuple[float, ...]
    paging: Counts | None

    @classmethod
    def joined(cls, stretches: Iterable[Stretch]) -> Stretch:
        parts = tuple(stretches)
        counts = [part.paging for part in parts if part.paging is not None]
        return cls(
            tokens=sum(part.tokens for part in parts),
            seconds=sum(part.seconds for part in parts),
            rates=tuple(rate for part in parts for rate in part.rates),
            paging={name: sum(each[name] for each in counts) for name in COUNTED} if counts else None,
        )

    @property
    def rate(self) -> float | None:
        """Tokens a second over all of it."""
        return self.tokens / self.seconds if self.tokens else None

    @property
    def guessed(self) -> bool:
        """Whether experts were read ahead on a guess."""
        return bool(self.paging and self.paging["guessed"])

    @property
    def hit_rate(self) -> float | None:
        """The share of uses that found their expert in memory, whole passes over a layer's experts included."""
        if self.paging is None:
            return None
        uses = self.paging["uses"] + self.paging["pass_uses"]
        return (self.paging["hits"] + self.paging["pass_hits"]) / uses if uses else None

    @property
    def bytes_read(self) -> float | None:
        """Bytes of experts that came from the disk."""
        if self.paging is None:
            return None
        return self.paging["demand_bytes"] + self.paging["lookahead_bytes"] + self.paging["prewarm_bytes"]


@dataclass(frozen=True)
class Round:
    """Requests that ran at once: until each had its first token, and from there on; and the length of their prompts."""

    prefill: Stretch
    decode: Stretch
    ttft: tuple[float, ...]
    prompts: tuple[int, ...]
    complete: bool


@dataclass(frozen=True)
class Phase:
    """Rounds under the same conditions."""

    rounds: tuple[Round, ...]

    @property
    def prefill(self) -> Stretch:
        return Stretch.joined(each.prefill for each in self.rounds)

    @property
    def decode(self) -> Stretch:
        return Stretch.joined(each.decode for each in self.rounds)

    @property
    def ttft(self) -> tuple[float, ...]:
        return tuple(seconds for each in self.rounds for seconds in each.ttft)

    @property
    def prompts(self) -> tuple[int, ...]:
        return tuple(length for each in self.rounds for length in each.prompts)

    def to_json(self, disk: Rate | None) -> dict[str, Any]:
        return {
            "rounds": len(self.rounds),
            "prompt_tokens": list(self.prompts),
            "new_tokens": self.decode.tokens + len(self.ttft),
            "ttft_s": quantiles(self.ttft),
            "prefill_tok_s": _rounded(self.prefill.rate),
            "decode_tok_s": quantiles(self.decode.rates),
            "decode_tok_s_mean": _rounded(self.decode.rate),
            "prefill": _paging_json(self.prefill, disk),
            "decode": _paging_json(self.decode, disk),
        }


@dataclass(frozen=True)
class Benchmark:
    """What was measured. Without `complete` it was interrupted, and has what there was by then."""

    cold: Phase
    warm: Phase
    complete: bool
    plan: MemoryPlan | GpuPlan
    stats: EngineStats
    peak: int
    backend: str
    threads: int
    disk: Rate | None

    def to_json(self) -> dict[str, Any]:
        return {
            "complete": self.complete,
            "kernels": self.backend,
            "threads": self.threads,
            "paging": _setup(self.stats.paging),
            "prewarm_bytes": None if self.stats.paging is None else self.stats.paging.prewarm_bytes,
            "memory": {"peak": self.peak, "within_budget": self.peak <= self.plan.budget, **asdict(self.plan)},
            "disk": None if self.disk is None else asdict(self.disk),
            "cold": self.cold.to_json(self.disk),
            "warm": self.warm.to_json(self.disk) if self.warm.rounds else None,
        }


@dataclass(frozen=True)
class Listening:
    """Who is told of a benchmark: layers loaded, tokens made, and a line for what is out of the ordinary."""

    loading: Told | None = None
    measuring: Told | None = None
    announce: Callable[[str], None] | None = None


def run_benchmark(
    path: str | Path,
    config: EngineConfig,
    workload: Workload,
    *,
    prepare: Prepare | None = None,
    trace: Path | None = None,
    listening: Listening = Listening(),
) -> Benchmark:
    """Loads a model with nothing of it in the page cache, and runs the workload; Ctrl-C ends it with what there is.

    `trace` is a file to record the routing in. The peak is the process's, so measure in one of its own.
    Raises what Engine.load does, ContextError, TraceError and BenchmarkError.
    """
    # Measured while memory is free: large pages are not to be had in what a run leaves.
    disk = _disk(path, config)
    drop_from_page_cache(path)
    # Rounds ask the same: what a prompt costs shows only where it is computed each time.
    config = replace(config, share_prefixes=False)
    engine = Engine.load(path, config, listening.loading, announce=listening.announce)
    if prepare is not None:
        prepare(engine)
    with contextlib.ExitStack() as stack:
        if trace is not None:
            engine.watch_routing(stack.enter_context(TraceWriter.of_model(trace, engine.model_config)))
        rounds = _run(engine, workload, listening.measuring)
    stats, complete = engine.stats(), all(each.complete for each in rounds) and len(rounds) == 1 + workload.warm_rounds
    peak = peak_memory()
    if complete:
        engine.close()
    return Benchmark(
        cold=Phase(rounds[:1]),
        warm=Phase(rounds[1:]),
        complete=complete,
        plan=engine.memory,
        stats=stats,
        peak=peak,
        backend=engine.backend,
        threads=torch.get_num_threads(),
        disk=disk,
    )


def surroundings() -> dict[str, Any]:
    """What figures depend on besides the model and what was asked."""
    return {
        "processor": processor_name(),
        "cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def drop_from_page_cache(directory: str | Path) -> None:
    """Asks the system to forget the files of a model; what another process has mapped stays."""
    for path in Path(directory).iterdir():
        if path.is_file():
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)


def quantiles(figures: Sequence[float]) -> dict[str, float] | None:
    """The middle, and what all but a fifth are above and below; None of no figures."""
    if not figures:
        return None
    cuts = statistics.quantiles(figures, n=5, method="inclusive") if len(figures) > 1 else [figures[0]] * 4
    middle = statistics.median(figures)
    return {name: _figures(value) for name, value in (("p20", cuts[0]), ("p50", middle), ("p80", cuts[3]))}


def _run(engine: Engine, workload: Workload, told: Told | None) -> tuple[Round, ...]:
    rounds: list[Round] = []
    for number, prompts in enumerate(workload.rounds(engine.tokenizer)):
        rounds.append(_Running(engine, workload, number, told).run(prompts))
        if not rounds[-1].complete:
            break
    return tuple(rounds)


class _Running:
    """One round while it runs."""

    def __init__(self, engine: Engine, workload: Workload, number: int, told: Told | None) -> None:
        self._engine, self._workload, self._told = engine, workload, told
        self._params = SamplingParams(seed=number, ignore_eos=True)
        self._made = number * workload.batch * workload.new_tokens
        self._first: dict[int, float] = {}
        self._steps: list[tuple[int, float]] = []

    def run(self, prompts: Sequence[tuple[int, ...]]) -> Round:
        before, started = self._paging(), time.perf_counter()
        between, switched = before, started
        complete = True
        try:
            for ids in prompts:
                self._engine.submit(Request(ids, (Stage(self._params, self._workload.new_tokens),)))
            while self._engine.has_work:
                decoding = len(self._first) == len(prompts)
                self._step(started, decoding)
                if not decoding:
                    between, switched = self._paging(), time.perf_counter()
        except KeyboardInterrupt:
            complete = False
        ttft = tuple(self._first.values())
        read = sum(map(len, prompts)) if len(ttft) == len(prompts) else 0
        made, seconds = sum(count for count, _ in self._steps), sum(each for _, each in self._steps)
        rates = tuple(count / each for count, each in self._steps if count)
        return Round(
            Stretch(read, switched - started, (), _between(before, between)),
            Stretch(made, seconds, rates, _between(between, self._paging())),
            ttft,
            tuple(map(len, prompts)),
            complete,
        )

    def _step(self, started: float, decoding: bool) -> None:
        begun = time.perf_counter()
        events = self._engine.step()
        ended = time.perf_counter()
        failed = next((event.error for event in events if event.finish == "error"), None)
        if failed is not None:
            raise BenchmarkError(f"a request failed: {failed}", "See antangel doctor, with the model.")
        drawn = [event.sequence_id for event in events if event.token_id != NO_TOKEN]
        for sequence in drawn:
            self._first.setdefault(sequence, ended - started)
        if decoding:
            self._steps.append((len(drawn), ended - begun))
        self._made += len(drawn)
        if self._told is not None:
            self._told(self._made, self._workload.tokens)

    def _paging(self) -> PagingStats | None:
        return self._engine.stats().paging


def _between(before: PagingStats | None, after: PagingStats | None) -> Counts | None:
    if before is None or after is None:
        return None
    return {name: getattr(after, name) - getattr(before, name) for name in COUNTED}


def _disk(path: str | Path, config: EngineConfig) -> Rate | None:
    """The disk's own rate for reads of an expert's size; None for a checkpoint, and where it cannot be measured."""
    if not is_pack(path):
        return None
    try:
        return disk_rate(Path(path) / EXPERTS, Manifest.read(Path(path)).experts.blob_bytes, config.readers)
    except (OSError, ValueError):
        return None


def _setup(paging: PagingStats | None) -> dict[str, Any] | None:
    if paging is None:
        return None
    return {name: getattr(paging, name) for name in ("policy", "lookahead", "experts", "slots", "resident", "verified")}


def _paging_json(stretch: Stretch, disk: Rate | None) -> dict[str, Any]:
    read = stretch.bytes_read
    share = read / stretch.seconds / disk.bytes_per_s if read is not None and disk and stretch.seconds else None
    counts = {name: _rounded(value) for name, value in (stretch.paging or {}).items()}
    return {
        "seconds": _rounded(stretch.seconds),
        "hit_rate": _rounded(stretch.hit_rate),
        "bytes_read": read,
        "share_of_disk_rate": _rounded(share),
        "counts": counts or None,
    }


def _rounded(value: float | None) -> float | None:
    return value if value is None or isinstance(value, int) else _figures(value)


def _figures(value: float) -> float:
    """Five figures are more than any of these is good for."""
    return float(f"{value:.5g}")
