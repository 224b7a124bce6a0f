"""`antangel config`: what the settings are and where they come from."""

from __future__ import annotations

import json
import os

from antangel_cli.policy import POLICY
from antangel_cli.setting_values import IN_FILES
from antangel_cli.settings import ENVIRONMENT_PREFIX, Settings, config_files
from antangel_cli.terminal import Terminal


def show(settings: Settings) -> int:
    """Print every setting, its value and its origin, and whether the policy has locked it."""
    terminal = Terminal.of(settings)
    keys = (*IN_FILES, *POLICY)
    if settings.json:
        found = {key: _record(settings, key) for key in keys}
        terminal.answer(json.dumps(found, ensure_ascii=False))
        return 0
    rows = [(f"policy.{key}" if key in POLICY else key, _value(settings, key), _origin(settings, key)) for key in keys]
    terminal.answer(terminal.rows("Settings", rows))
    return 0


def _record(settings: Settings, key: str) -> dict[str, object]:
    found: dict[str, object] = {"value": getattr(settings, key), "origin": settings.origin(key)}
    return found | ({"locked": True} if key in settings.locked else {})


def _origin(settings: Settings, key: str) -> str:
    return f"{settings.origin(key)}{', locked' if key in settings.locked else ''}"


def _value(settings: Settings, key: str) -> str:
    value = getattr(settings, key)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(value) or "-"
    if value is None:
        return "auto" if key == "concurrency" else "-"
    return str(value)


def paths(settings: Settings) -> int:
    """Print the configuration files, weakest first, and whether each is there."""
    terminal = Terminal.of(settings)
    places = config_files(os.environ)
    if settings.json:
        terminal.answer(json.dumps({name: {"path": str(p), "exists": p.is_file()} for name, p in places.items()}))
        return 0
    rows = [(name, str(path), "" if path.is_file() else "(not there)") for name, path in places.items()]
    rows.append(("environment", f"{ENVIRONMENT_PREFIX}<KEY>", ""))
    terminal.answer(terminal.rows("Read in this order, the later stronger", rows))
    return 0
