"""Errors of the runtime become the command's, each with its exit code."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from antangel_cli.errors import BusyError, ModelError, RejectedError, UsageError
from antangel_cli.source import Source


@contextlib.contextmanager
def model_problems(source: Source) -> Iterator[None]:
    """Give the runtime's errors their exit codes."""
    try:
        yield
    except Exception as error:
        module = sys.modules.get("runtime.errors")
        if module is None or not isinstance(error, module.AntangelError):
            raise
        if isinstance(error, module.BusyError):
            raise BusyError(
                f"{source.name} is in use by {error.holder}.", "Wait until it ends, or run with --wait.", stage="load"
            ) from error
        if isinstance(error, module.OptionError):
            raise UsageError(f"{error.message}.", error.remedy) from error
        if isinstance(error, module.ContextError):
            raise RejectedError(error.message, error.remedy, code="too_long", stage="prompt") from error
        raise ModelError(f"{source.name}: {error.message}", error.remedy, code=_code(error), stage="load") from error


@contextlib.contextmanager
def device_problems(device: str) -> Iterator[None]:
    """A GPU that is not there, or that this torch cannot use, is a model problem."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        if device == "cpu":
            raise
        raise ModelError(f"{device} cannot be used: {error}", "Use --device cpu.", code="no_device") from error


@contextlib.contextmanager
def pack_problems() -> Iterator[None]:
    """A format that does not exist is a wrong flag; the rest is a problem with the model."""
    import runtime

    try:
        yield
    except runtime.FormatChoiceError as error:
        raise UsageError(error.message, error.remedy) from error
    except runtime.AntangelError as error:
        raise ModelError(error.message, error.remedy, code=_code(error), stage="pack") from error


def _code(error: Exception) -> str:
    return {
        "CheckpointError": "model_damaged",
        "ExpertReadError": "model_damaged",
        "CapacityError": "does_not_fit",
    }.get(type(error).__name__, "model")
