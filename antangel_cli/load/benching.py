"""Measures the model that answers beside what was predicted of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antangel_cli import ROOT
from antangel_cli.clinic.model import Turn
from antangel_cli.errors import UsageError
from antangel_cli.load.kept import pack_of
from antangel_cli.load.machine import device_of, engine_config
from antangel_cli.load.problems import device_problems, model_problems
from antangel_cli.load.request import messages
from antangel_cli.meter import Advance
from antangel_cli.settings import Settings
from antangel_cli.source import find_model, manifest_hash, number_format

if TYPE_CHECKING:
    import runtime


@dataclass(frozen=True)
class BenchWorkload:
    """What a benchmark asks: conversations in turn, cut to `prompt` tokens where told, `batch` of them at once."""

    conversations: Sequence[Sequence[Turn]]
    prompt: int | None
    new: int
    batch: int
    warm_rounds: int


_NANO_TRACE = ROOT / "bench" / "traces" / "nano-cases.jsonl.gz"


def skew_trace(place: str | None) -> Path:
    """The trace whose skew is replayed: the one that is named, else that of the demonstration model."""
    path = _NANO_TRACE if place is None else Path(place).expanduser()
    if not path.is_file():
        raise UsageError(f"There is no routing trace {path}.", "Name one with --trace-skew FILE.", code="no_such_file")
    return path


def benchmark(
    settings: Settings, asked: BenchWorkload, skew: Path | None, advance: Advance, announce: Callable[[str], None]
) -> dict[str, Any]:
    """Measure the model that answers, with nothing of it in memory at first, and predict the same."""
    source = find_model(settings)
    device = device_of(settings, announce)
    with model_problems(source), device_problems(device), contextlib.ExitStack() as held:
        import runtime

        weights = manifest_hash(source.path)
        config = engine_config(settings, device=device, max_sequences=asked.batch)
        path = pack_of(source, weights, announce)
        held.enter_context(runtime.ModelLock.take(path, wait=settings.wait, announce=announce))
        prompts = [messages(turns) for turns in asked.conversations]
        workload = runtime.Workload(prompts, asked.prompt, asked.new, asked.batch, asked.warm_rounds)
        measured = runtime.run_benchmark(
            path,
            config,
            workload,
            prepare=None if skew is None else runtime.skew_of(skew),
            trace=None if settings.trace is None else Path(settings.trace),
            listening=runtime.Listening(measuring=advance, announce=announce),
        )
        predicted = _predicted(path, config, measured, skew)
    model = {"name": source.name, "formats": number_format(path), "weights": weights, "device": device}
    return {"model": model, "machine": runtime.surroundings(), **measured.to_json(), "predicted": predicted}


def _predicted(
    path: Path, config: runtime.EngineConfig, measured: runtime.Benchmark, skew: Path | None
) -> dict[str, Any]:
    """Each figure that was predicted and measured; none of a checkpoint, nor of a run that was interrupted."""
    import runtime

    if not runtime.is_pack(path) or not measured.complete:
        return {}
    compared = runtime.compare_to_plan(path, config, measured, skewed=skew is not None)
    return {name: each.to_json() for name, each in compared.items()}
