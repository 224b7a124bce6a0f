"""What one run of diagnose, validate or batch was asked for beyond the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class CaseOptions:
    """How to read a case, where its result goes, and which urgency fails the run."""

    input_format: str = "auto"
    output: str | None = None
    force: bool = False
    fail_on: str | None = None
    accept_implausible: bool = False
    redact: bool = False
    doses: bool = False
    samples: int = 1
    replay: str | None = None
    format: str = "text"

    @classmethod
    def of(cls, flags: Mapping[str, Any]) -> CaseOptions:
        """Take the options out of the flags that were given."""
        return _of(cls, flags)


@dataclass(frozen=True)
class BatchOptions:
    """Order and bounds of a batch, what of an earlier one it goes on with, and what it writes beside its output."""

    unordered: bool = False
    max_errors: int | None = None
    fail_fast: bool = False
    limit: int | None = None
    dry_run: bool = False
    resume: bool = False
    skip_done: str | None = None
    fingerprint_key: str | None = None
    errors: str | None = None
    summary: str | None = None

    @classmethod
    def of(cls, flags: Mapping[str, Any]) -> BatchOptions:
        """Take the options out of the flags that were given."""
        return _of(cls, flags)

    @property
    def errors_allowed(self) -> int | None:
        """How many errors stop the reading; None: any number."""
        return 1 if self.fail_fast else self.max_errors


@dataclass(frozen=True)
class ChatOptions:
    """What a chat is about, what is added to the instructions, and where it is kept, if anywhere."""

    case: str | None = None
    system: str | None = None
    system_file: str | None = None
    session: str | None = None
    resume: bool = False
    history: bool = False
    render: Literal["auto", "markdown", "plain"] = "auto"
    vi: bool = False
    doses: bool = False

    @classmethod
    def of(cls, flags: Mapping[str, Any]) -> ChatOptions:
        """Take the options out of the flags that were given."""
        return _of(cls, flags)


@dataclass(frozen=True)
class EvalOptions:
    """What an evaluation is compared with, which data set is imported instead, and where its output goes."""

    against: str | None = None
    results: str | None = None
    stability: bool = False
    import_format: str | None = None
    limit: int | None = None
    output: str | None = None
    force: bool = False

    @classmethod
    def of(cls, flags: Mapping[str, Any]) -> EvalOptions:
        """Take the options out of the flags that were given."""
        return _of(cls, flags)


def _of(kind: type[T], flags: Mapping[str, Any]) -> T:
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in flags.items() if name in names and value is not None})
