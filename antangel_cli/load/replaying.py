"""Replays a recorded trace of the routing under every policy."""

from __future__ import annotations

from typing import Any

from antangel_cli.errors import UsageError
from antangel_cli.meter import Advance


def replay_trace(trace: str, advance: Advance) -> dict[str, Any]:
    """What every policy would have made of a recorded trace. Raises UsageError."""
    import runtime

    try:
        return runtime.replay(runtime.read_trace(trace), progress=advance).to_json()
    except runtime.TraceError as error:
        raise UsageError(f"{error.message}.", error.remedy, code="bad_trace") from error
