"""Tokens in, tokens out: loads a BailingMoeV2 checkpoint and generates with it.

Importing this package is cheap: torch is loaded with the first name that needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.config import EngineConfig, ModelConfig, Share
    from runtime.engine import Engine
    from runtime.errors import (
        AntangelError,
        BusyError,
        CapacityError,
        CheckpointError,
        ConfigError,
        ContextError,
        GrammarError,
        KeptPrefixError,
    )
    from runtime.examination.doctor import examine
    from runtime.examination.fingerprint import Inventory, examine_model
    from runtime.examination.self_test import Passage, Verdict, run_self_test
    from runtime.experts.replay import replay
    from runtime.experts.trace import TraceError, TraceWriter, read_trace
    from runtime.hardware import best_device
    from runtime.lock import ModelLock
    from runtime.measuring.benchmark import Benchmark, BenchmarkError, Listening, Workload, run_benchmark, surroundings
    from runtime.measuring.random_pack import random_pack_place, true_shape, write_random_pack
    from runtime.measuring.routing import skew_of
    from runtime.memory import MemoryPlan, many_sequences, peak_memory
    from runtime.pack import PACK_VERSION, is_pack
    from runtime.pack_check import check_pack
    from runtime.pack_manifest import Manifest
    from runtime.packing import FormatChoiceError, Telling, write_pack
    from runtime.prediction.compared import compare_to_plan
    from runtime.prediction.model_plan import PlannedModel, ToldMachine, plan_model
    from runtime.prediction.planned_machine import PCIE
    from runtime.rates import Rate, disk_rate, memory_rate
    from runtime.request import NO_TOKEN, Request, Stage, TokenEvent
    from runtime.sampling import SamplingParams
    from runtime.stats import EngineStats
    from runtime.template import Message, ToolCall
    from runtime.tokenizer import StreamDecoder, Tokenizer

_HOME = {
    "Benchmark": "measuring.benchmark",
    "BenchmarkError": "measuring.benchmark",
    "Listening": "measuring.benchmark",
    "Workload": "measuring.benchmark",
    "run_benchmark": "measuring.benchmark",
    "surroundings": "measuring.benchmark",
    "skew_of": "measuring.routing",
    "compare_to_plan": "prediction.compared",
    "random_pack_place": "measuring.random_pack",
    "true_shape": "measuring.random_pack",
    "write_random_pack": "measuring.random_pack",
    "EngineConfig": "config",
    "Share": "config",
    "best_device": "hardware",
    "ModelConfig": "config",
    "Engine": "engine",
    "examine": "examination.doctor",
    "this_machine": "prediction.planned_machine",
    "replay": "experts.replay",
    "TraceError": "experts.trace",
    "TraceWriter": "experts.trace",
    "read_trace": "experts.trace",
    "Inventory": "examination.fingerprint",
    "examine_model": "examination.fingerprint",
    "MemoryPlan": "memory",
    "many_sequences": "memory",
    "peak_memory": "memory",
    "ModelLock": "lock",
    "PlannedModel": "prediction.model_plan",
    "ToldMachine": "prediction.model_plan",
    "plan_model": "prediction.model_plan",
    "PCIE": "prediction.planned_machine",
    "Rate": "rates",
    "disk_rate": "rates",
    "memory_rate": "rates",
    "PACK_VERSION": "pack",
    "is_pack": "pack",
    "check_pack": "pack_check",
    "Manifest": "pack_manifest",
    "FormatChoiceError": "packing",
    "Telling": "packing",
    "write_pack": "packing",
    "AntangelError": "errors",
    "BusyError": "errors",
    "CapacityError": "errors",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "ContextError": "errors",
    "GrammarError": "errors",
    "KeptPrefixError": "errors",
    "NO_TOKEN": "request",
    "Request": "request",
    "Stage": "request",
    "TokenEvent": "request",
    "SamplingParams": "sampling",
    "Passage": "examination.self_test",
    "Verdict": "examination.self_test",
    "run_self_test": "examination.self_test",
    "EngineStats": "stats",
    "Message": "template",
    "ToolCall": "template",
    "StreamDecoder": "tokenizer",
    "Tokenizer": "tokenizer",
}

__all__ = [
    "NO_TOKEN",
    "PACK_VERSION",
    "PCIE",
    "AntangelError",
    "Benchmark",
    "BenchmarkError",
    "BusyError",
    "CapacityError",
    "CheckpointError",
    "ConfigError",
    "ContextError",
    "Engine",
    "EngineConfig",
    "EngineStats",
    "FormatChoiceError",
    "GrammarError",
    "Inventory",
    "KeptPrefixError",
    "Listening",
    "Manifest",
    "MemoryPlan",
    "Message",
    "ModelConfig",
    "ModelLock",
    "Passage",
    "PlannedModel",
    "Rate",
    "Request",
    "SamplingParams",
    "Share",
    "Stage",
    "StreamDecoder",
    "Telling",
    "TokenEvent",
    "Tokenizer",
    "ToldMachine",
    "ToolCall",
    "TraceError",
    "TraceWriter",
    "Verdict",
    "Workload",
    "best_device",
    "check_pack",
    "compare_to_plan",
    "disk_rate",
    "examine",
    "examine_model",
    "is_pack",
    "many_sequences",
    "memory_rate",
    "peak_memory",
    "plan_model",
    "random_pack_place",
    "read_trace",
    "replay",
    "run_benchmark",
    "run_self_test",
    "skew_of",
    "surroundings",
    "true_shape",
    "write_pack",
    "write_random_pack",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
