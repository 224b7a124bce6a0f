"""What `antangel bench` measured, as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from antangel_cli.sizes import show_bytes
from antangel_cli.terminal import Terminal

Record = Mapping[str, Any]
Row = tuple[str, ...]

NOTHING = "-"


def page(terminal: Terminal, record: Record) -> str:
    """The whole record, for people."""
    parts = [
        terminal.rows("Run", _run(record)),
        terminal.rows("Measured", _measured(record)),
        terminal.rows("Memory", _memory(record["memory"])),
    ]
    if record["predicted"]:
        parts.append(terminal.rows("Predicted", _predicted(record["predicted"])))
    if not record["complete"]:
        parts.append("Interrupted: these are partial results.")
    return "\n\n".join(parts)


def _run(record: Record) -> list[Row]:
    machine, model, asked, paging = record["machine"], record["model"], record["asked"], record["paging"]
    memory = show_bytes(machine["memory_bytes"])
    rows = [
        ("model", f"{model['name']}, {model['formats']}"),
        ("machine", f"{machine['processor']}, {record['threads']} of {machine['cores']} cores, {memory}"),
        ("kernels", str(record["kernels"])),
        ("asked", f"{asked['batch']} at once, {asked['new']} new tokens each, {asked['rounds']} warm rounds"),
        ("routing", asked["routing"]),
    ]
    if paging is None:
        return [*rows, ("experts", "all in memory")]
    share = paging["slots"] / paging["experts"]
    slots = f"{paging['slots']:,} slots for {paging['experts']:,} ({share:.0%})"
    return [*rows, ("experts", f"{slots}, policy {paging['policy']}, look-ahead {paging['lookahead']}")]


def _measured(record: Record) -> list[Row]:
    phases = [record["cold"], record["warm"]]
    rows: list[Row] = [("", "cold", "warm")]
    for name, show in _FIGURES.items():
        shown = tuple(NOTHING if phase is None else show(phase) for phase in phases)
        if any(cell != NOTHING for cell in shown):
            rows.append((name, *shown))
    disk = record["disk"]
    if disk is not None and record["paging"] is not None:
        rows.append(("the disk's own rate", f"{disk['bytes_per_s'] / 1e9:.2f} GB/s", ""))
    return rows


def _memory(memory: Record) -> list[Row]:
    told = "told" if memory["told"] else "chosen"
    return [
        ("budget", f"{show_bytes(memory['budget'])} ({told})"),
        ("peak", f"{show_bytes(memory['peak'])}, {'within' if memory['within_budget'] else 'ABOVE'} the budget"),
    ]


def _predicted(predicted: Record) -> list[Row]:
    rows: list[Row] = [("", "predicted", "measured", "error", "limit")]
    for name, each in predicted.items():
        error = NOTHING if each["error"] is None else f"{each['error']:+.0%}"
        rows.append((_NAMES[name], f"{each['value']:.4g}", f"{each['measured']:.4g}", error, each["limit"]))
    return rows


def _tokens(lengths: list[int]) -> str:
    if not lengths:
        return NOTHING
    return str(min(lengths)) if min(lengths) == max(lengths) else f"{min(lengths)} to {max(lengths)}"


def _spread(figures: Mapping[str, float] | None) -> str:
    return NOTHING if figures is None else " / ".join(f"{figures[name]:.3g}" for name in ("p20", "p50", "p80"))


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1%}"


def _read(stretch: Record) -> str:
    """Bytes by cause, of those that had any."""
    counts = stretch["counts"]
    if counts is None:
        return NOTHING
    causes = {"missed": "demand_bytes", "guessed": "lookahead_bytes", "to warm up": "prewarm_bytes"}
    parts = [f"{show_bytes(counts[key])} {cause}" for cause, key in causes.items() if counts[key]]
    return ", ".join(parts) or "0"


def _count(stretch: Record, name: str) -> str:
    return NOTHING if stretch["counts"] is None else f"{stretch['counts'][name]:.4g}"


_FIGURES: dict[str, Callable[[Record], str]] = {
    "prompts, tokens": lambda phase: _tokens(phase["prompt_tokens"]),
    "time to first token, s (p20/p50/p80)": lambda phase: _spread(phase["ttft_s"]),
    "prefill, tokens/s": lambda phase: _number(phase["prefill_tok_s"]),
    "decode, tokens/s (p20/p50/p80)": lambda phase: _spread(phase["decode_tok_s"]),
    "decode, tokens/s over all": lambda phase: _number(phase["decode_tok_s_mean"]),
    "hit rate, prefill": lambda phase: _percent(phase["prefill"]["hit_rate"]),
    "hit rate, decode": lambda phase: _percent(phase["decode"]["hit_rate"]),
    "read, prefill": lambda phase: _read(phase["prefill"]),
    "read, decode": lambda phase: _read(phase["decode"]),
    "waited for reads, prefill, s": lambda phase: _count(phase["prefill"], "stall_seconds"),
    "waited for reads, decode, s": lambda phase: _count(phase["decode"], "stall_seconds"),
    "waves, prefill": lambda phase: _count(phase["prefill"], "waves"),
    "waves, decode": lambda phase: _count(phase["decode"], "waves"),
    "of the disk's rate, prefill": lambda phase: _percent(phase["prefill"]["share_of_disk_rate"]),
    "of the disk's rate, decode": lambda phase: _percent(phase["decode"]["share_of_disk_rate"]),
}

_NAMES = {
    "hit_rate": "hit rate, decode",
    "decode_tok_s": "decode, tokens/s",
    "ttft_s": "time to first token, warm, s",
    "ttft_cold_s": "time to first token, cold, s",
}
