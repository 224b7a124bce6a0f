"""The self-test of a model that is open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from antangel_cli.clinic.model import Model
from antangel_cli.load.model import Exchange, RuntimeModel


def untestable(model: Model) -> str | None:
    """Why a model has no self-test; None where it has one."""
    if not isinstance(model, RuntimeModel):
        return "not run: the model is not in this process"
    return "not run: random weights" if model.is_random else None


def self_test(
    model: Model, exchanges: Sequence[Exchange], prose: Sequence[str], most_nats: float | None
) -> dict[str, Any]:
    """Let a model weigh texts and answer a question; None takes a bound that holds for any model. Raises ModelError."""
    if not isinstance(model, RuntimeModel):
        raise TypeError("the model is not in this process")
    return model.self_test(exchanges, prose, most_nats)
