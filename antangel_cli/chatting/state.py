"""A chat: a conversation, the session that keeps it, and whether it was left."""

from __future__ import annotations

from dataclasses import dataclass

from antangel_cli.chatting.keeping import Keeper
from antangel_cli.chatting.talk import Conversation
from antangel_cli.terminal import Terminal


@dataclass
class Chat:
    """What commands act on."""

    talk: Conversation
    keeper: Keeper
    left: bool = False

    @property
    def terminal(self) -> Terminal:
        """Where it prints."""
        return self.talk.terminal

    def send(self, message: str) -> None:
        """Send a message; the turn is kept where that was asked for."""
        if self.talk.send(message):
            self.keeper.keep(self.talk)
