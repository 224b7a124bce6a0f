"""Tokens in, tokens out: loads a BailingMoeV2 checkpoint and generates with it.

Importing this package is cheap: torch is loaded with the first name that needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.config import EngineConfig, ModelConfig
    from runtime.doctor import examine
    from runtime.engine import Engine
    from runtime.errors import (
        AntangelError,
        CapacityError,
        CheckpointError,
        ConfigError,
        ContextError,
        GrammarError,
    )
    from runtime.pack import PACK_VERSION, is_pack
    from runtime.pack_check import check_pack
    from runtime.pack_manifest import Manifest
    from runtime.packing import FormatChoiceError, Telling, write_pack
    from runtime.request import NO_TOKEN, Request, Stage, TokenEvent
    from runtime.sampling import SamplingParams
    from runtime.stats import EngineStats
    from runtime.template import Message, ToolCall
    from runtime.tokenizer import StreamDecoder, Tokenizer

_HOME = {
    "EngineConfig": "config",
    "ModelConfig": "config",
    "Engine": "engine",
    "examine": "doctor",
    "PACK_VERSION": "pack",
    "is_pack": "pack",
    "check_pack": "pack_check",
    "Manifest": "pack_manifest",
    "FormatChoiceError": "packing",
    "Telling": "packing",
    "write_pack": "packing",
    "AntangelError": "errors",
    "CapacityError": "errors",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "ContextError": "errors",
    "GrammarError": "errors",
    "NO_TOKEN": "request",
    "Request": "request",
    "Stage": "request",
    "TokenEvent": "request",
    "SamplingParams": "sampling",
    "EngineStats": "stats",
    "Message": "template",
    "ToolCall": "template",
    "StreamDecoder": "tokenizer",
    "Tokenizer": "tokenizer",
}

__all__ = [
    "NO_TOKEN",
    "PACK_VERSION",
    "AntangelError",
    "CapacityError",
    "CheckpointError",
    "ConfigError",
    "ContextError",
    "Engine",
    "EngineConfig",
    "EngineStats",
    "FormatChoiceError",
    "GrammarError",
    "Manifest",
    "Message",
    "ModelConfig",
    "Request",
    "SamplingParams",
    "Stage",
    "StreamDecoder",
    "Telling",
    "TokenEvent",
    "Tokenizer",
    "ToolCall",
    "check_pack",
    "examine",
    "is_pack",
    "write_pack",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
