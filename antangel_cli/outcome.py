"""Every way a run can end, made into an exit code and, where something went wrong, a message."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

from typer import Abort
from typer.exceptions import TyperException

from antangel_cli.errors import BROKEN_PIPE, INTERRUPTED, CommandError, RejectedError, UsageError
from antangel_cli.terminal import Terminal

ERROR_SCHEMA = "antangel.error/1"
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF)
"""What a write to stdout ends with when a disk is full, or stdout is closed; files say it themselves."""


class OutputClosedError(Exception):
    """Whoever read our output has gone."""


def guarded(run: Callable[[], Any], arguments: Sequence[str]) -> int:
    """Run a command and return its exit code. `arguments` say how to show a failure, even of the flags."""
    try:
        code = int(run() or 0)
        sys.stdout.flush()
        return code
    except (OutputClosedError, BrokenPipeError):
        _discard_output()
        return BROKEN_PIPE
    except (KeyboardInterrupt, Abort):
        return INTERRUPTED
    except Exception as error:
        return _report(error, arguments)


def _is_unwritable(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in UNWRITABLE


def _discard_output() -> None:
    """Send what is still buffered nowhere, so that the interpreter does not complain at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(error: Exception, arguments: Sequence[str]) -> int:
    flags = set(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    failure = describe(error)
    terminal = Terminal(plain="--plain" in flags, color="--no-color" not in flags)
    if "--debug" in flags and failure.code == "internal":
        terminal.note(frames(error))
    terminal.failure(failure)
    try:
        if wants_json(arguments):
            terminal.answer(json.dumps({"schema": ERROR_SCHEMA, "status": "error", "error": failure.record}))
        sys.stdout.flush()
    except OSError:
        _discard_output()
    return failure.exit_code


def frames(error: BaseException) -> str:
    """A traceback without the exceptions' messages: they may quote what they choked on."""
    import traceback

    chain: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in chain:
        chain.insert(0, found)
        found = found.__cause__ or found.__context__
    parts = ["".join(traceback.format_tb(link.__traceback__)) + type(link).__qualname__ for link in chain]
    return "Traceback (most recent call last):\n" + "\n\nand then\n\n".join(parts)


def show_no_messages() -> None:
    """Print the frames alone of what nobody caught, in any thread: for the program's own process."""
    sys.excepthook = lambda kind, error, trace: _print_frames(error)
    threading.excepthook = lambda said: _print_frames(said.exc_value)
    sys.unraisablehook = lambda said: _print_frames(said.exc_value)


def _print_frames(error: BaseException | None) -> None:
    if error is not None:
        Terminal().note(frames(error))


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether the command line asks for JSON, read without parsing the rest of it."""
    pairs = list(zip(arguments, [*arguments[1:], ""], strict=True))
    return any(word in ("--json", "--format=json") or (word, after) == ("--format", "json") for word, after in pairs)


def describe(error: Exception) -> CommandError:
    """The failure an exception stands for."""
    if isinstance(error, CommandError):
        return error
    if isinstance(error, TyperException):
        return _usage(error)
    rejected = _rejected_input(error)
    if rejected:
        return rejected
    if _is_unwritable(error):
        reason = os.strerror(cast(OSError, error).errno or 0)
        return UsageError(f"The output cannot be written: {reason}.", "Make room, or choose another place.")
    # The message of an unforeseen exception may quote what it choked on, so only its type is shown.
    return CommandError(
        f"Internal error: {type(error).__name__}.",
        "Run again with --debug and report the traceback, without any case in it.",
    )


def _usage(error: TyperException) -> CommandError:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "antangel"
    message = error.format_message()
    if context and context.parent is None and message.startswith("No such option"):
        return UsageError("Flags stand after the command.", "For example: antangel diagnose case.json --json")
    word = message.split("'")[1] if message.startswith("No such command '") else ""
    if word and os.path.exists(word):
        return UsageError("A command comes before the file.", "For example: antangel diagnose FILE")
    return UsageError(_sentence(_without_stray_words(message, word)), f"See {path} -h.")


def _without_stray_words(message: str, word: str) -> str:
    """A usage message without the words that landed in a wrong place: they may be a patient's."""
    if message.startswith("Got unexpected extra argument"):
        return "There are too many arguments."
    return "There is no such command." if len(word) > 12 or " " in word else message


def _sentence(message: str) -> str:
    """A usage message on one line, and ended: a remedy follows it."""
    message = " ".join(message.replace("Value error, ", "").split())
    return message if message.endswith((".", "?")) else f"{message}."


def _rejected_input(error: Exception) -> CommandError | None:
    module = sys.modules.get("antangel_cli.clinic.errors")
    if module is None or not isinstance(error, module.InputError):
        return None
    place = getattr(error, "place", None)
    message = str(getattr(error, "message", "The input is no case."))
    return RejectedError(f"{place}: {message}" if place else message, str(getattr(error, "remedy", "")), stage="input")
