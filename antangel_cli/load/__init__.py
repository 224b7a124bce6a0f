"""The doors to the runtime, a module each: nothing else in `antangel_cli` imports it.

They import it when they are called, as `import torch` costs over a second.
"""

from __future__ import annotations

from antangel_cli.load.benching import BenchWorkload, benchmark, skew_trace
from antangel_cli.load.examining import examine, examine_model, memory_rate
from antangel_cli.load.model import RuntimeModel
from antangel_cli.load.opening import open_model
from antangel_cli.load.packing import MadePack, check_pack, write_pack
from antangel_cli.load.planning import ToldMachine, plan_model
from antangel_cli.load.random_weights import random_model
from antangel_cli.load.replaying import replay_trace
from antangel_cli.load.testing import self_test, untestable

__all__ = [
    "BenchWorkload",
    "MadePack",
    "RuntimeModel",
    "ToldMachine",
    "benchmark",
    "check_pack",
    "examine",
    "examine_model",
    "memory_rate",
    "open_model",
    "plan_model",
    "random_model",
    "replay_trace",
    "self_test",
    "skew_trace",
    "untestable",
    "write_pack",
]
