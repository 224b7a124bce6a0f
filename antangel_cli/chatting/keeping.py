"""Which session a chat is kept in, if in any: nothing is saved unless asked."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from antangel_cli.chatting import shelf
from antangel_cli.chatting.computed import Computed
from antangel_cli.chatting.resuming import session_of, take_up
from antangel_cli.chatting.talk import Conversation
from antangel_cli.clinic import memo
from antangel_cli.errors import PolicyError, UsageError
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal


class Keeper:
    """Writes the conversation after each turn into the session that is open. Raises UsageError, PolicyError."""

    def __init__(self, settings: Settings, terminal: Terminal) -> None:
        self.name: str | None = None
        self.always = False
        self._known: shelf.Mark = None
        self._settings = settings
        self._terminal = terminal
        self._computed = Computed(terminal)

    def require_allowed(self) -> None:
        """Refuse to keep anything where the policy says so. Raises PolicyError."""
        if not self._settings.history:
            raise PolicyError(
                f"Conversations are not kept: history is off in {self._settings.origin('history')}.",
                "Go on without, or ask whoever keeps that file.",
            )

    def ready(self, name: str | None, resume: bool, always: bool, about_case: bool) -> str | None:
        """The session that `--session` or `--resume` asks for, and `--history` noted, before a model is loaded.

        Raises UsageError for a name that is none, a session that is damaged or has a case of its own, and with
        nothing to resume.
        """
        if name is None and not resume and not always:
            return None
        self.require_allowed()
        self.tidy()
        self.always = always
        session = self._latest() if resume else name
        if session is not None and shelf.path_of(session).exists():
            _require_no_case(about_case)
            shelf.read(session)
        return session

    def start(self, talk: Conversation, session: str | None) -> None:
        """Go on with a session, or begin it where there is none of its name."""
        if session is not None and shelf.path_of(session).exists():
            self.load(talk, session)
        elif session is not None:
            self.save(talk, session)

    def tidy(self) -> None:
        """Delete the sessions that are older than the policy allows, and say how many those were."""
        shelf.delete_left_over()
        gone = shelf.delete_older(self._settings.max_age_days)
        if gone:
            self._terminal.note(f"Sessions older than {self._settings.max_age_days} days, deleted: {gone}.")

    def _latest(self) -> str:
        names = shelf.names()
        if not names:
            raise UsageError("There is no session to resume.", "Begin one with --session NAME.", code="no_such_session")
        return names[0]

    def load(self, talk: Conversation, name: str) -> None:
        """Go on with a session, and keep what comes in it."""
        self.require_allowed()
        known, session = shelf.mark(name), shelf.read(name)
        self.keep_computed(talk)
        take_up(talk, session, self._terminal.note)
        self.name, self._known = name, known
        self._computed.take(talk, name)
        turns = len(talk.exchanges)
        self._terminal.remark(f"Session {name}: {turns} {'turn' if turns == 1 else 'turns'} so far.")

    def save(self, talk: Conversation, name: str) -> None:
        """Keep the conversation, and what comes, in a session of this name that does not exist yet."""
        self._open(talk, name)
        self.keep_computed(talk)

    def _open(self, talk: Conversation, name: str) -> None:
        self.require_allowed()
        if name == self.name:
            self._write(talk, name)
        elif shelf.path_of(name).exists():
            raise UsageError("A session of that name exists.", "Choose another, or /forget it first.", code="exists")
        else:
            self.keep_computed(talk)
            self._known = shelf.write(name, session_of(talk), None)
            self.name, self._computed = name, Computed(self._terminal)
            self._computed.drop(name)
        self._terminal.remark(f"Kept in {shelf.path_of(name)}, now and after each turn.")

    def keep(self, talk: Conversation) -> None:
        """Write the session that is open, if one is; with history on, one is opened."""
        if self.name is not None:
            self._write(talk, self.name)
        elif self.always and talk.exchanges:
            self._open(talk, new_name())

    def _write(self, talk: Conversation, name: str) -> None:
        self._computed.follow(talk, name)
        self._known = shelf.write(name, session_of(talk), self._known)

    def keep_computed(self, talk: Conversation) -> None:
        """Write what was computed of the session that is open, if it is as it was written last."""
        if self.name is not None and shelf.mark(self.name) == self._known:
            self._computed.keep(talk, self.name)

    def leave(self, talk: Conversation) -> None:
        """Close the session as it stands: what comes is not of it."""
        self.keep_computed(talk)
        if self.name is not None:
            self._terminal.remark(f"Session {self.name} stays as it is; /save NAME keeps what comes in a new one.")
        self.name, self._known = None, None

    def switch(self, talk: Conversation, on: bool) -> None:
        """Keep every conversation from now on, or no longer."""
        if on:
            self.require_allowed()
            self.always = True
            self.keep(talk)
        else:
            self.always = False
            self.leave(talk)

    def forget(self, talk: Conversation, name: str | None) -> None:
        """Delete a session; without a name the one that is open, with the conversation itself."""
        target = name or self.name
        if target is not None:
            shelf.delete(target)
            self._terminal.remark("The session is deleted.")
        if name is None or name == self.name:
            self.name, self._known = None, None
            talk.begin(None)
            memo.forget()
            self._terminal.remark("The conversation is forgotten.")

    def where(self) -> str:
        """In words: where the conversation is kept."""
        path: Path | None = shelf.path_of(self.name) if self.name else None
        return str(path) if path else "in memory alone; /save NAME keeps it"


def _require_no_case(about_case: bool) -> None:
    """A session that exists is about its own case. Raises UsageError."""
    if about_case:
        raise UsageError("The session exists, and is about a case of its own.", "Name another, or leave --case out.")


def new_name() -> str:
    """A name after the time that no session has."""
    base = datetime.now().astimezone().strftime("chat-%Y%m%d-%H%M%S")
    taken = shelf.names()
    return next(name for name in (base, *(f"{base}-{i}" for i in range(2, 1000))) if name not in taken)
