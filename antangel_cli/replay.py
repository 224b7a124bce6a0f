"""`antangel bench --replay`: the hit rate of every policy on a recorded trace, as a table and a plot; no model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from antangel_cli import load
from antangel_cli.files import require_writable
from antangel_cli.plot import plot_kind, write_plot
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal


def replay(settings: Settings, trace: str, output: str | None, force: bool = False) -> int:
    """Print the table, and write the plot where asked for one."""
    terminal = Terminal.of(settings)
    if output is not None:
        plot_kind(output)
        require_writable(output, force)
    with terminal.meter("Replaying", "curves") as advance:
        found = load.replay_trace(trace, advance)
    if output is not None:
        write_plot(found, output, force)
        terminal.remark(f"Written to {output}.")
    terminal.answer(json.dumps(found, ensure_ascii=False) if settings.json else _table(terminal, found))
    return 0


def _table(terminal: Terminal, found: Mapping[str, Any]) -> str:
    curves = found["curves"]
    shares = [point["share"] for point in curves[0]["points"]]
    facts = (
        f"{found['layers']} layers of {found['experts']} experts, {found['experts_per_token']} a token; "
        f"{found['tokens']} tokens in {found['steps']} steps, {found['decode_steps']} of them of one token"
    )
    head = ["slots", *(curve["policy"] for curve in curves)]
    tables = [
        terminal.rows(title, [head, *([f"{share:.0%}", *_rates(curves, i, key)] for i, share in enumerate(shares))])
        for title, key in (
            ("Hit rate in steps of one token", "decode_hit_rate"),
            ("Hit rate in all steps but passes over a prompt", "hit_rate"),
        )
    ]
    return "\n\n".join([facts, *tables])


def _rates(curves: list[dict[str, Any]], point: int, key: str) -> list[str]:
    rates = [curve["points"][point][key] for curve in curves]
    return ["-" if rate is None else f"{rate:.1%}" for rate in rates]
