"""The commands of a chat: a row each, from which the help, the completion and docs/chat.md are made."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from antangel_cli.chatting import answers, records
from antangel_cli.chatting.state import Chat
from antangel_cli.errors import UsageError

NARROWEST = 16
"""Characters of the column of meanings, on however narrow a terminal."""

Completes = Literal["", "files", "sessions", "settings", "switch"]


@dataclass(frozen=True)
class Command:
    """A command: its argument (in brackets: may be left out; empty: none), what it does, and how Tab completes it."""

    name: str
    argument: str
    meaning: str
    run: Callable[[Chat, str], None]
    completes: Completes = ""

    @property
    def form(self) -> str:
        """As it is typed: `/case FILE`."""
        return f"{self.name} {self.argument}".strip()

    def require_form(self, argument: str) -> None:
        """Raise UsageError where an argument is missing, or is one too many."""
        if argument and not self.argument:
            raise UsageError(f"{self.name} takes nothing after it.", "See /help.")
        if not argument and self.argument and not self.argument.startswith("["):
            raise UsageError(f"{self.name} takes {self.argument} after it.", "See /help.")


def _help(chat: Chat, argument: str) -> None:
    chat.terminal.note(help_text(chat.terminal.width))


def _exit(chat: Chat, argument: str) -> None:
    chat.left = True


COMMANDS = (
    Command("/help", "", "this list", _help),
    Command("/exit", "", "leave; so does Ctrl-D", _exit),
    Command("/clear", "", "begin anew, without a case", answers.clear),
    Command("/case", "FILE", "begin anew, about the case in FILE", answers.case, "files"),
    Command("/read", "FILE", "send a text file along with the next message, as data", answers.read, "files"),
    Command("/diagnose", "", "a structured differential of what was loaded and said", answers.diagnose_said),
    Command("/system", "[TEXT|off]", "show, set or drop what is added to the instructions", answers.system),
    Command("/set", "NAME VALUE", "change a setting of the sampling, or of /diagnose", answers.change, "settings"),
    Command("/show", "", "the settings, the case as the model is told it, and where this is kept", records.show),
    Command("/retry", "", "answer the last message again, with another seed", answers.retry),
    Command("/undo", "", "take the last message and its reply back", answers.undo),
    Command("/edit", "", "write the last message anew in the editor, and send that instead", answers.edit_last),
    Command("/copy", "", "copy the last reply to the terminal's clipboard", records.copy_last),
    Command("/save", "[NAME]", "keep the conversation, now and after each turn", records.save),
    Command("/load", "NAME", "go on with a session", records.load, "sessions"),
    Command("/sessions", "", "the sessions there are", records.sessions),
    Command("/history", "on|off", "keep every conversation, or no longer", records.history, "switch"),
    Command("/stats", "", "measurements of the model", records.stats),
    Command("/export", "FILE.md", "write the conversation to a Markdown file", records.export_to, "files"),
    Command("/forget", "[NAME]", "delete a session, or this one and the conversation", records.forget, "sessions"),
)  # fmt: skip

BARE = {"exit": "/exit", "quit": "/exit", "help": "/help", "?": "/help", ":q": "/exit", "/?": "/help", "/quit": "/exit"}
"""Messages that are no question to a model: what leaves other programs, or asks for their help."""

KEYS = (
    ("Enter", "sends"),
    ("Alt-Enter, Ctrl-J", "a new line; what is pasted is one message"),
    ("Tab", "completes commands, files, sessions and settings; Right takes the suggestion"),
    ("Ctrl-R", "searches what was typed in this chat"),
    ("Ctrl-X Ctrl-E", "goes on writing in the editor: $VISUAL, $EDITOR or vi"),
    ("Ctrl-C", "clears the line, or stops the reply and keeps what came; twice within a second leaves"),
    ("Ctrl-D", "leaves"),
)


def help_text(columns: int) -> str:
    """The commands and keys, aligned; what each does is broken within its own column."""
    rows = [*((command.form, command.meaning) for command in COMMANDS), *KEYS]
    width = max(len(form) for form, _ in rows) + 2
    room = max(columns - width, NARROWEST)
    indent = "\n" + " " * width
    return "\n".join(f"{form:<{width}}{indent.join(textwrap.wrap(meaning, room))}" for form, meaning in rows)


def obey(chat: Chat, message: str) -> None:
    """Do what a command says. One that does not exist is an error, and never sent to the model."""
    name, _, argument = message.partition(" ")
    command = next((command for command in COMMANDS if command.name == name), None)
    if command is None:
        meant = BARE.get(message.lower())
        near = [meant] if meant else difflib.get_close_matches(name, [command.name for command in COMMANDS], 1, 0.4)
        remedy = f"Did you mean {near[0]}?" if near else "/help lists the commands."
        raise UsageError("There is no such command.", remedy)
    command.require_form(argument.strip())
    command.run(chat, argument.strip())
