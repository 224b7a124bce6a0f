"""Examines this machine, and the files of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from antangel_cli.load.planning import ToldMachine, plan_model
from antangel_cli.load.problems import model_problems
from antangel_cli.settings import Settings
from antangel_cli.source import Source


def examine(announce: Callable[[str], None]) -> dict[str, Any]:
    """The machine as the runtime sees it, and the kernels chosen and refused for its processor."""
    import runtime

    return runtime.examine(announce)


def memory_rate(threads: int | None) -> dict[str, Any]:
    """How fast this machine reads memory, measured."""
    import runtime

    return dataclasses.asdict(runtime.this_machine(threads).dram)


def examine_model(settings: Settings, path: Path) -> dict[str, Any]:
    """What is in a model's files, counted against its config; where it would go; and the rates of this machine.

    Raises ModelError where something is missing, too much or of another shape.
    """
    import runtime

    with model_problems(Source(path, path.name, False)):
        held = runtime.examine_model(path)
    planned = plan_model(settings, path, ToldMachine(), formats={}, prompt=1000, batch=1)
    prediction, machine = planned["prediction"], planned["machine"]
    needs = sum(tier["bytes"] for tier in prediction["tiers"] if tier["memory"] == "RAM")
    chosen = {key: prediction[key] for key in ("fits", "slots", "experts", "problem", "remedy")}
    return {
        "kind": held.kind,
        "tensors": f"{held.found}, as config.json calls for",
        "found": dataclasses.asdict(held.found),
        "expected": dataclasses.asdict(held.expected),
        "mtp_layers": held.mtp_layers,
        "fingerprint": held.fingerprint,
        "memory": chosen | {"needs": needs, "may_take": prediction["budgets"].get("RAM", 0)},
        "rates": {"memory": machine["dram"], "disk": machine["disk"]},
    }
