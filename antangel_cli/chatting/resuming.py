"""From a conversation to its session, and back."""

from __future__ import annotations

from collections.abc import Callable

from antangel_cli import __version__
from antangel_cli.cases import Checked
from antangel_cli.chatting.session import KeptCase, Session, WhichModel, now
from antangel_cli.chatting.talk import Conversation

KEPT_SETTINGS = ("temperature", "top_p", "top_k", "max_tokens", "timeout", "reasoning")
"""What a session keeps of the settings, besides the seed."""

Tell = Callable[[str], None]


def session_of(talk: Conversation) -> Session:
    """The conversation as it is kept."""
    return Session(
        version=__version__,
        created=talk.created,
        updated=now(),
        model=WhichModel.of(talk.model),
        seed=talk.seed,
        settings={key: getattr(talk.settings, key) for key in KEPT_SETTINGS},
        system=talk.system,
        case=KeptCase.of(talk.case.case) if talk.case else None,
        turns=tuple(talk.exchanges),
    )


def take_up(talk: Conversation, session: Session, tell: Tell) -> None:
    """Go on with a session; what differs from it now is told. Raises UsageError for a setting that cannot be."""
    talk.begin(Checked.of(session.case.restored()) if session.case else None)
    talk.exchanges, talk.created = list(session.turns), session.created
    talk.alarmed |= {fired.rule.id for fired in talk.spoken().checks.red_flags}
    if talk.settings.origin("seed") == "default":
        talk.seed = session.seed
    _take_system(talk, session.system, tell)
    _take_settings(talk, session, tell)
    mine = WhichModel.of(talk.model)
    if mine != session.model:
        tell(f"The session was with {_named(session.model)}; now {_named(mine)} answers.")


def _take_system(talk: Conversation, system: str | None, tell: Tell) -> None:
    """A session's added instructions hold, unless some were given now or the policy has locked them."""
    if system is None or system == talk.system:
        return
    if talk.system is not None or "system" in talk.settings.locked:
        tell("The session's added instructions are not used.")
    else:
        talk.system = system


def _take_settings(talk: Conversation, session: Session, tell: Tell) -> None:
    """A session's settings hold where no flag says otherwise and the policy leaves them free."""
    for key in KEPT_SETTINGS:
        value = session.settings.get(key)
        free = key not in talk.settings.locked and not talk.settings.origin(key).startswith("--")
        if free and value is not None and value != getattr(talk.settings, key):
            talk.change(key, value, "the session")
            tell(f"{key.replace('_', '-')} {value}, from the session.")


def _named(model: WhichModel) -> str:
    return f"{model.name} ({(model.weights or 'unknown')[:12]})"
