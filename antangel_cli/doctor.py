"""`antangel doctor`: this machine, the kernels it gets and why not others, and which model answers."""

from __future__ import annotations

import json
from typing import Any

from antangel_cli import __version__, load, source
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal


def doctor(settings: Settings) -> int:
    """Print the examination. Exit 0 even where something is missing: the page says so."""
    terminal = Terminal.of(settings)
    found: dict[str, Any] = {"version": __version__, **load.examine(terminal.remark), "model": _model(settings)}
    if settings.json:
        terminal.answer(json.dumps(found, ensure_ascii=False))
        return 0
    terminal.answer("\n\n".join(_page(terminal, found)))
    return 0


def _model(settings: Settings) -> dict[str, Any]:
    facts, remedy = source.described(settings)
    return facts | {"problem": f"{facts['problem']} {remedy}"} if facts["name"] is None else facts


def _page(terminal: Terminal, found: dict[str, Any]) -> list[str]:
    machine, model = found["machine"], found["model"]
    known = [(key.replace("_", " "), str(value)) for key, value in machine.items()]
    answering = f"{model['name']}, {model['path']}" if model["name"] else model["problem"]
    page = [
        f"antangel {found['version']}",
        terminal.rows("Machine", known),
        terminal.rows("Kernels in use", list(found["kernels"].items())),
    ]
    if found["refused"]:
        page.append(terminal.rows("Kernels refused", list(found["refused"].items())))
    return [*page, f"Model: {answering}"]
