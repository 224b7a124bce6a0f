"""Measures in a process of its own: nothing of one measurement is in memory at the next, and its peak is its own."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from antangel_cli.bench_prompts import conversations
from antangel_cli.sizes import parse_size
from runtime import EngineConfig, Message, Share, Workload, run_benchmark, skew_of
from runtime.config import Amount


def budget(text: str) -> Amount:
    """Bytes of `8GiB`, or the share that `50%` is. Raises ValueError."""
    size = parse_size(text)
    return Share(size) if isinstance(size, float) else size


def messages() -> list[list[Message]]:
    """The prompts of the example cases."""
    return [[Message(turn.role, turn.content) for turn in turns] for turns in conversations()]


def measured_apart(model: Path, config: EngineConfig, workload: Workload, skew: Path | None = None) -> dict[str, Any]:
    """What `antangel bench --json` says of a run, but for who ran it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, model, config, workload, skew).result()


def _measured(model: Path, config: EngineConfig, workload: Workload, skew: Path | None) -> dict[str, Any]:
    prepare = None if skew is None else skew_of(skew)
    return run_benchmark(model, config, workload, prepare=prepare).to_json()
