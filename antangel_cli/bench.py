"""`antangel bench`: what a model does on this machine, measured cold and warm, beside what was predicted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from antangel_cli import load
from antangel_cli.bench_page import page
from antangel_cli.bench_prompts import conversations
from antangel_cli.clinic.provenance import tool
from antangel_cli.errors import INTERRUPTED, OK, UsageError
from antangel_cli.files import require_writable, write_whole
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal

BENCH_SCHEMA = "antangel.bench/1"
FEWEST = {"layers": 2, "prompt": 1, "new": 2, "batch": 1, "rounds": 0}
"""The least that each of these options may be."""


@dataclasses.dataclass(frozen=True)
class BenchOptions:
    """Which model is measured, or what is made to be measured, and under which load."""

    model: str | None = None
    shape: str | None = None
    layers: int | None = None
    dir: str | None = None
    prompt: int | None = None
    new: int = 64
    batch: int = 1
    rounds: int = 3
    routing: str = "router"
    trace_skew: str | None = None
    replay: str | None = None
    output: str | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if self.model is not None and self.shape is not None:
            raise UsageError("--shape makes a model, and another is named.", "Leave one of them out.")
        if self.shape is None and (self.layers is not None or self.dir is not None):
            raise UsageError("--layers and --dir are for --shape.", "Add --shape flash or --shape mini.")
        if self.trace_skew is not None and self.routing != "skewed":
            raise UsageError("--trace-skew is for --routing skewed.", "Add --routing skewed.")
        for name, least in FEWEST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name} is {value}.", f"Use at least {least}.")

    @classmethod
    def of(cls, model: str | None, flags: Mapping[str, Any]) -> BenchOptions:
        """Take the options out of the flags that were given."""
        return cls(model, **{name: value for name, value in flags.items() if value is not None})

    @property
    def workload(self) -> load.BenchWorkload:
        return load.BenchWorkload(conversations(), self.prompt, self.new, self.batch, self.rounds)


def bench(settings: Settings, options: BenchOptions) -> int:
    """Measure and print; interrupted, print what was measured by then and say so."""
    if options.replay is not None:
        from antangel_cli.replay import replay

        return replay(settings, options.replay, options.output, options.force)
    require_writable(options.output, options.force)
    terminal = Terminal.of(settings)
    record = _record(_with_model(settings, options, terminal), options, terminal)
    text = json.dumps(record, ensure_ascii=False, indent=1)
    if options.output is not None:
        write_whole(options.output, f"{text}\n", options.force)
        terminal.remark(f"Written to {options.output}.")
    terminal.answer(json.dumps(record, ensure_ascii=False) if settings.json else page(terminal, record))
    if settings.stats:
        terminal.note(json.dumps(_stats(record)))
    return OK if record["complete"] else INTERRUPTED


def _with_model(settings: Settings, options: BenchOptions, terminal: Terminal) -> Settings:
    """The settings with the model that was named, or that is made now."""
    model = options.model if options.shape is None else _made(options.shape, options, terminal)
    return settings if model is None else dataclasses.replace(settings, model=model)


def _made(shape: str, options: BenchOptions, terminal: Terminal) -> str:
    try:
        with terminal.meter(f"Making random weights, {shape}", "bytes") as advance:
            return load.random_model(shape, options.layers, options.dir, advance, terminal.remark)
    except KeyboardInterrupt:
        terminal.remark("Interrupted. The same command goes on from here.")
        raise


def _record(settings: Settings, options: BenchOptions, terminal: Terminal) -> dict[str, Any]:
    skew = load.skew_trace(options.trace_skew) if options.routing == "skewed" else None
    with terminal.meter("Measuring", "tokens") as advance:
        measured = load.benchmark(settings, options.workload, skew, advance, terminal.remark)
    asked = {name: getattr(options, name) for name in ("prompt", "new", "batch", "rounds", "routing")}
    return {"schema": BENCH_SCHEMA, "status": "ok", "tool": tool(), "asked": asked, **measured}


def _stats(record: Mapping[str, Any]) -> dict[str, float | None]:
    """What `--stats` says of any command, of the last rounds that were measured."""
    phase, memory = record["warm"] or record["cold"], record["memory"]
    ttft = phase["ttft_s"]
    return {
        "bytes_moved": phase["decode"]["bytes_read"],
        "hit_rate": phase["decode"]["hit_rate"],
        "ram_peak": memory["peak"],
        "ram_budget": memory["budget"],
        "decode_tok_s": phase["decode_tok_s_mean"],
        "ttft_ms": None if ttft is None else 1000 * ttft["p50"],
    }
