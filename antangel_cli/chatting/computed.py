"""What the model computed of a session's turns, in a file beside it, which resuming reads in place of computing anew.

The file is made when the session is left. It holds no turn that the session does not, and is deleted with it. Without
it, or where it is of no use, everything is computed: no answer depends on it.
"""

from __future__ import annotations

import time

from antangel_cli.chatting import shelf
from antangel_cli.chatting.talk import Conversation
from antangel_cli.clinic.model import Turn
from antangel_cli.files import replace_whole
from antangel_cli.terminal import Terminal


class Computed:
    """The file of the session that is open; `_turns` are those that it may hold."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._turns: list[Turn] = []

    def take(self, talk: Conversation, name: str) -> None:
        """When a session is opened: use its file, if there is one; one that no model can use is deleted."""
        self._turns = []
        place = shelf.computed_path(name)
        if not place.is_file():
            return
        self._turns, started = talk.turns(), time.monotonic()
        taken = talk.model.read_computed(self._turns, place)
        if taken.useless:
            self.drop(name)
        if taken.refused:
            self._terminal.detail(f"What was computed of the session is not used: {taken.refused}.")
        else:
            self._terminal.detail(f"Tokens computed before: {taken.tokens}; read in {_since(started)}.")

    def follow(self, talk: Conversation, name: str) -> None:
        """Before a session is written: delete the file if it may hold what was taken back."""
        if talk.turns()[: len(self._turns)] != self._turns:
            self.drop(name)

    def keep(self, talk: Conversation, name: str) -> None:
        """When a session is left: write what the model keeps of its turns, unless that is there."""
        turns, started = talk.turns(), time.monotonic()
        if turns == self._turns or not talk.exchanges:
            return
        try:
            tokens = replace_whole(shelf.computed_path(name), lambda file: talk.model.write_computed(turns, file))
        except OSError as error:
            self._terminal.detail(f"What was computed is not kept: {error.strerror}.")
            return
        if tokens:
            self._turns = turns
            self._terminal.detail(f"Tokens whose computation is kept: {tokens}; written in {_since(started)}.")

    def drop(self, name: str) -> None:
        """Delete the file of a session."""
        self._turns = []
        shelf.delete_computed(name)


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.2f} s"
