"""Messages from a terminal, typed or written in an editor; and from stdin, one a line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from antangel_cli.chatting.editor import edit
from antangel_cli.errors import RejectedError
from antangel_cli.files import decode

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.output import Output

MOST_BYTES = 1 << 20
"""Of a message."""

Read = Callable[[], str]
"""Gives the next message; raises EOFError at the end, KeyboardInterrupt for Ctrl-C."""


@dataclass(frozen=True)
class InEditor:
    """What Ctrl-X Ctrl-E ends a prompt with: the text so far."""

    text: str = field(repr=False)


def read_line() -> str:
    """The next line of stdin. Raises RejectedError for one that is too long, or no UTF-8."""
    stream = sys.stdin.buffer
    line = part = stream.readline(MOST_BYTES)
    if not line:
        raise EOFError
    while len(part) == MOST_BYTES and not part.endswith(b"\n"):
        part = stream.readline(MOST_BYTES)
        line = b""
    if not line:
        raise RejectedError("A message is longer than 1 MiB.", "Shorten it.", code="too_large", stage="input")
    return decode(line, "stdin")


def read_typed_line() -> str:
    """The next line typed at a terminal that cannot move its cursor (`TERM=dumb`); prompted for on stderr."""
    sys.stderr.write("> ")
    sys.stderr.flush()
    return read_line()


def prompt_reader(input: Input | None = None, output: Output | None = None, vi: bool = False) -> Read:
    """Messages typed at a terminal. What was typed is remembered in memory alone, as long as the chat lasts."""
    session = _prompt_session(input, output, vi)

    def read() -> str:
        text = ""
        while True:
            typed = session.prompt(default=text)
            if isinstance(typed, str):
                return typed
            text = edit(typed.text)

    return read


def _prompt_session(input: Input | None, output: Output | None, vi: bool) -> PromptSession[str | InEditor]:
    """The prompt is drawn on stderr: stdout carries only the replies."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
    from prompt_toolkit.history import InMemoryHistory
    from prompt_toolkit.output import create_output

    from antangel_cli.chatting.completion import ChatCompleter

    return PromptSession(
        "> ",
        multiline=True,
        vi_mode=vi,
        history=InMemoryHistory(),
        auto_suggest=AutoSuggestFromHistory(),
        completer=ChatCompleter(),
        complete_while_typing=False,
        key_bindings=_keys(),
        prompt_continuation="  ",
        input=input,
        output=output or create_output(sys.stderr),
    )


def _keys() -> KeyBindings:
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import has_focus
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()
    # While Ctrl-R searches, Enter takes what was found.
    writing = has_focus(DEFAULT_BUFFER)

    @keys.add("enter", filter=writing)
    def _send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=writing)
    @keys.add("c-j", filter=writing)
    def _newline(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-x", "c-e", filter=writing)
    def _write(event: KeyPressEvent) -> None:
        event.app.exit(result=InEditor(event.current_buffer.text))

    return keys
