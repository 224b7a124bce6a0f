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

EXIT_CODES = {
    0: "answered: ok, degraded or demonstration",
    1: "internal error",
    2: "usage, settings, a file that is missing, unreadable or there already",
    3: "the input was rejected; of several files, any",
    4: "the model is missing, incomplete, damaged, or does not fit",
    5: "generation failed or timed out, or every line failed",
    6: "some lines failed, some answers differ, or the audit log is not as written",
    7: "refused by the machine's policy",
    10: "urgency at or above --fail-on, or not certain",
    75: "another process has the model; --wait waits for it",
    130: "interrupted by Ctrl-C",
    141: "whoever read the output has gone",
    143: "terminated",
}
"""What each exit code means, as the help and the documentation say it."""


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
