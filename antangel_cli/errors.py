"""Why a command ends early: each reason has an exit code, a place and a remedy."""

from __future__ import annotations

OK = 0
INTERNAL = 1
SOME_LINES_FAILED = 6
FAIL_ON = 10
BUSY = 75
INTERRUPTED = 130
BROKEN_PIPE = 141
TERMINATED = 143


class CommandError(Exception):
    """A command cannot go on: what happened, what to do about it, and the exit code for it.

    Never carries the text of a case.
    """

    exit_code = INTERNAL
    code = "internal"
    retryable = False

    def __init__(self, message: str, remedy: str, *, code: str | None = None, stage: str = "start") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.code = code or self.code
        self.stage = stage

    @property
    def record(self) -> dict[str, object]:
        """The `error` part of a JSON record."""
        return {
            "code": self.code,
            "message": f"{self.message} {self.remedy}".strip(),
            "retryable": self.retryable,
            "stage": self.stage,
        }


class UsageError(CommandError):
    """A flag, a setting or a file is not as it should be."""

    exit_code = 2
    code = "usage"


class RejectedError(CommandError):
    """The input is no case, or too long for the model."""

    exit_code = 3
    code = "input_rejected"


class ModelError(CommandError):
    """The model is missing, incomplete, damaged, or does not fit."""

    exit_code = 4
    code = "model"


class GenerationError(CommandError):
    """The model did not come to an answer."""

    exit_code = 5
    code = "generation_failed"
    retryable = True


class BusyError(CommandError):
    """Another process has the model."""

    exit_code = BUSY
    code = "busy"
    retryable = True


class PolicyError(CommandError):
    """The machine's policy forbids it."""

    exit_code = 7
    code = "policy"
