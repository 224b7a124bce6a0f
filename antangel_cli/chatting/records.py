"""Commands about what is kept, shown and measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime

from antangel_cli.chatting import shelf
from antangel_cli.chatting.answers import SETTABLE
from antangel_cli.chatting.clipboard import copy
from antangel_cli.chatting.export import export
from antangel_cli.chatting.keeping import new_name
from antangel_cli.chatting.state import Chat
from antangel_cli.errors import UsageError


def show(chat: Chat, argument: str) -> None:
    """Settings with their origin, the added instructions, the case's facts, and where all of it is kept."""
    chat.terminal.note("\n".join(_shown(chat)))


def _shown(chat: Chat) -> Iterator[str]:
    talk = chat.talk
    yield chat.terminal.rows("Settings", [_setting(chat, name) for name in SETTABLE])
    yield f"Added instructions: {talk.system or 'none'}"
    if talk.case is None:
        yield "No case is loaded."
    else:
        yield f"Case {talk.case.case.id}"
        yield from (f"  {line}" for line in talk.case.fact_lines())
    yield f"Turns: {len(talk.exchanges)}; files for the next message: {len(talk.attached)}"
    yield f"Kept: {chat.keeper.where()}"


def _setting(chat: Chat, name: str) -> list[str]:
    settings, key = chat.talk.settings, SETTABLE[name]
    if name == "seed":
        return [name, str(chat.talk.seed), settings.origin("seed") if settings.seed is not None else "random"]
    value = getattr(settings, key)
    return [name, "-" if value is None else str(value), settings.origin(key)]


def copy_last(chat: Chat, argument: str) -> None:
    """Copy the last reply, as it was shown."""
    copy(chat.terminal, chat.talk.spoken().shown(chat.talk.last.reply))
    chat.terminal.remark("Copied, where the terminal allows it (OSC 52).")


def save(chat: Chat, argument: str) -> None:
    """Keep the conversation in the session that is open, or in a new one."""
    chat.keeper.save(chat.talk, argument or chat.keeper.name or new_name())


def load(chat: Chat, argument: str) -> None:
    """Go on with a session."""
    chat.keeper.tidy()
    chat.keeper.load(chat.talk, argument)


def sessions(chat: Chat, argument: str) -> None:
    """List the sessions, the last one changed first."""
    chat.keeper.tidy()
    rows = [[name, _time(shelf.changed(name)), "open" if name == chat.keeper.name else ""] for name in shelf.names()]
    chat.terminal.note(chat.terminal.rows(str(shelf.folder()), rows) if rows else "There are no sessions.")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="minutes")


def history(chat: Chat, argument: str) -> None:
    """Keep every conversation, or no longer."""
    if argument not in ("on", "off"):
        raise UsageError("/history is on or off.", "Write /history on or /history off.")
    chat.keeper.switch(chat.talk, argument == "on")
    chat.terminal.remark("Every conversation is kept." if argument == "on" else "Nothing more is kept.")


def stats(chat: Chat, argument: str) -> None:
    """The model's counters."""
    chat.terminal.note(json.dumps(chat.talk.model.stats()))


def export_to(chat: Chat, argument: str) -> None:
    """Write the conversation to a new Markdown file."""
    chat.terminal.remark(f"Written to {export(chat.talk, argument)}.")


def forget(chat: Chat, argument: str) -> None:
    """Delete a session, or this one with the conversation."""
    chat.keeper.forget(chat.talk, argument or None)
