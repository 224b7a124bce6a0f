"""What Tab completes: commands, and what stands behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from antangel_cli.chatting import shelf
from antangel_cli.chatting.answers import SETTABLE
from antangel_cli.chatting.commands import COMMANDS, Command

REASONING = ("show", "hide", "off")


class ChatCompleter(Completer):
    """Completes a line that begins with a command; a message is never completed."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """The completions at the cursor."""
        typed = document.text_before_cursor
        if not typed.startswith("/") or "\n" in typed:
            return
        name, space, rest = typed.partition(" ")
        if not space:
            yield from _commands(name)
        elif command := next((command for command in COMMANDS if command.name == name), None):
            yield from _arguments(command, rest, complete_event)


def _commands(typed: str) -> Iterator[Completion]:
    for command in COMMANDS:
        if command.name.startswith(typed):
            yield Completion(command.name, -len(typed), display=command.form, display_meta=command.meaning)


def _arguments(command: Command, typed: str, event: CompleteEvent) -> Iterator[Completion]:
    if command.completes == "files":
        yield from PathCompleter(expanduser=True).get_completions(Document(typed), event)
    elif command.completes == "sessions":
        yield from _words(shelf.names() if shelf.folder().is_dir() else (), typed)
    elif command.completes == "settings":
        yield from _setting(typed)
    elif command.completes == "switch":
        yield from _words(("on", "off"), typed)


def _setting(typed: str) -> Iterator[Completion]:
    name, space, value = typed.partition(" ")
    yield from _words(REASONING if name == "reasoning" else (), value) if space else _words(SETTABLE, typed)


def _words(words: Iterable[str], typed: str) -> Iterator[Completion]:
    yield from (Completion(word, -len(typed)) for word in words if word.startswith(typed))
