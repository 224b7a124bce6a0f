"""What the machine's keeper decides: `[policy]` in /etc/antangel/config.toml, and nowhere else."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from antangel_cli.errors import PolicyError, UsageError
from antangel_cli.setting_values import IN_FILES

LOCKABLE = (*IN_FILES, "accept_implausible", "doses", "redact", "samples", "replay", "system", "trace")
"""What may be locked: every setting, and the flags that decide what is checked, shown or recorded."""

Policy = Mapping[str, Any]


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _days(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("a whole number of days from 1 up")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise ValueError("a list of texts")
    return tuple(value)


def _lockable(value: Any) -> tuple[str, ...]:
    names = _names(value)
    unknown = [name for name in names if name not in LOCKABLE]
    if unknown:
        raise ValueError(f"a list of settings; {unknown[0]} is none")
    return names


POLICY = {
    "audit_required": _switch,
    "history": _switch,
    "demo_model": _switch,
    "allowed_models": _names,
    "max_age_days": _days,
    "locked": _lockable,
}
"""Every key of `[policy]` and how its value is checked."""


def read_policy(place: str, content: Any) -> Policy:
    """The checked policy of a file. Raises UsageError."""
    if not isinstance(content, dict):
        raise UsageError(f"{place} is no table.", "Write [policy] on a line of its own.")
    for key in content:
        require_known(place, key, POLICY)
    return {key: _checked(place, key, value) for key, value in content.items()}


def _checked(place: str, key: str, value: Any) -> Any:
    try:
        return POLICY[key](value)
    except ValueError as error:
        raise UsageError(f"{place}: {key} must be {error}.", "Correct the line.") from None


def require_known(place: str, key: str, known: Collection[str]) -> None:
    """Raise UsageError, with the nearest key, for one that does not exist."""
    if key in known:
        return
    near = difflib.get_close_matches(key, known, 1, 0.0)
    raise UsageError(f"{place}: {key} is no setting.", f"Nearest: {near[0]}." if near else "Remove it.")


def refuse_locked(given: Collection[str], locked: Collection[str], place: str) -> None:
    """Raise PolicyError where a flag was given for what the policy has locked."""
    for key in given:
        if key in locked:
            raise PolicyError(
                f"--{key.replace('_', '-')} is locked by {place}.",
                "Leave the flag out, or ask whoever keeps that file.",
            )
