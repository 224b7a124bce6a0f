"""When a result fails a run that asked for `--fail-on`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from antangel_cli.clinic.result import URGENCIES

_UNCERTAIN = ("degraded", "error")


def reaches(record: Mapping[str, Any], fail_on: str | None) -> bool:
    """Whether a result's final urgency is at or above `fail_on`; what is not certain counts as above."""
    if fail_on is None:
        return False
    urgency = record.get("urgency_final")
    if urgency in (None, "undetermined") or record.get("status") in _UNCERTAIN or record.get("degraded"):
        return True
    return URGENCIES.index(urgency) <= URGENCIES.index(fail_on)
