"""`antangel config`: what the settings are and where they come from."""

from __future__ import annotations

import json
import os

from antangel_cli.settings import ENVIRONMENT_PREFIX, IN_FILES, SYSTEM_CONFIG, Settings, user_config
from antangel_cli.terminal import Terminal


def show(settings: Settings) -> int:
    """Print every setting, its value and its origin."""
    terminal = Terminal.of(settings)
    keys = (*IN_FILES, "demo_model")
    if settings.json:
        found = {key: {"value": getattr(settings, key), "origin": settings.origin(key)} for key in keys}
        terminal.answer(json.dumps(found, ensure_ascii=False))
        return 0
    rows = [
        (f"policy.{key}" if key == "demo_model" else key, _value(settings, key), settings.origin(key)) for key in keys
    ]
    terminal.answer(terminal.rows("Settings", rows))
    return 0


def _value(settings: Settings, key: str) -> str:
    value = getattr(settings, key)
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "auto" if key == "concurrency" else "-"
    return str(value)


def paths(settings: Settings) -> int:
    """Print the configuration files, weakest first, and whether each is there."""
    terminal = Terminal.of(settings)
    places = {"system": SYSTEM_CONFIG, "user": user_config(os.environ)}
    if settings.json:
        terminal.answer(json.dumps({name: {"path": str(p), "exists": p.is_file()} for name, p in places.items()}))
        return 0
    rows = [(name, str(path), "" if path.is_file() else "(not there)") for name, path in places.items()]
    rows.append(("environment", f"{ENVIRONMENT_PREFIX}<KEY>", ""))
    terminal.answer(terminal.rows("Read in this order, the later stronger", rows))
    return 0
