"""Commands about what the model is told and says."""

from __future__ import annotations

from antangel_cli.cases import Checked, read_one
from antangel_cli.chatting.attachment import read_attachment
from antangel_cli.chatting.diagnosing import diagnose
from antangel_cli.chatting.editor import edit
from antangel_cli.chatting.state import Chat
from antangel_cli.clinic.spoken import Spoken
from antangel_cli.errors import UsageError
from antangel_cli.files import STDIN
from antangel_cli.options import CaseOptions
from antangel_cli.policy import refuse_locked

SETTABLE = {
    "temperature": "temperature",
    "top-p": "top_p",
    "top-k": "top_k",
    "max-tokens": "max_tokens",
    "timeout": "timeout",
    "seed": "seed",
    "reasoning": "reasoning",
}
"""What `/set` changes, and the setting's key."""


def load_case(place: str) -> Checked:
    """Read and check the case of a file. Raises UsageError or InputError."""
    if place == STDIN:
        raise UsageError("A chat reads its messages from stdin, and no case.", "Name a file.")
    return Checked.of(read_one(place, CaseOptions()))


def clear(chat: Chat, argument: str) -> None:
    """Begin anew without a case."""
    _begin(chat, None)


def case(chat: Chat, argument: str) -> None:
    """Begin anew about a case."""
    _begin(chat, load_case(argument))


def _begin(chat: Chat, loaded: Checked | None) -> None:
    if chat.talk.exchanges:
        chat.terminal.remark("A new conversation.")
    chat.keeper.leave(chat.talk)
    chat.talk.begin(loaded)


def read(chat: Chat, argument: str) -> None:
    """Attach a text file to the next message."""
    attachment = read_attachment(argument)
    chat.talk.attached.append(attachment.text)
    if attachment.dropped:
        chat.terminal.remark(f"Characters that nobody sees, dropped: {attachment.dropped}.")
    if Spoken.of(None, [attachment.text]).checks.injection_suspected:
        chat.terminal.note("The file holds text that reads like an instruction to the model.")
    chat.terminal.remark(f"It goes with the next message; characters: {len(attachment.text)}.")


def diagnose_said(chat: Chat, argument: str) -> None:
    """A structured differential; the conversation goes on without it."""
    diagnose(chat.talk)


def system(chat: Chat, argument: str) -> None:
    """Show, set or drop what is added to the instructions; it never replaces them."""
    if not argument:
        chat.terminal.note(chat.talk.system or "Nothing is added to the instructions.")
        return
    _refuse_locked(chat, "system")
    chat.talk.system = None if argument == "off" else argument
    chat.keeper.keep(chat.talk)
    chat.terminal.remark(
        "Nothing is added to the instructions." if argument == "off" else "Added to the instructions from now on."
    )


def change(chat: Chat, argument: str) -> None:
    """Change a setting."""
    name, _, value = argument.partition(" ")
    if name not in SETTABLE or not value.strip():
        raise UsageError("/set takes the name of a setting and a value.", f"The names: {', '.join(SETTABLE)}.")
    _refuse_locked(chat, SETTABLE[name])
    chat.talk.change(SETTABLE[name], value.strip(), "/set")
    chat.keeper.keep(chat.talk)
    chat.terminal.remark(f"{name} {getattr(chat.talk.settings, SETTABLE[name])}")


def _refuse_locked(chat: Chat, key: str) -> None:
    settings = chat.talk.settings
    refuse_locked([key], settings.locked, settings.origin("locked"))


def retry(chat: Chat, argument: str) -> None:
    """Answer the last message again with the next seed."""
    last = chat.talk.last
    chat.talk.again(last.asked, last.seed + 1)
    chat.keeper.keep(chat.talk)


def undo(chat: Chat, argument: str) -> None:
    """Take the last turn back."""
    chat.talk.undo()
    chat.keeper.keep(chat.talk)
    left = len(chat.talk.exchanges)
    chat.terminal.remark(f"Taken back; {left} {'turn is' if left == 1 else 'turns are'} left.")


def edit_last(chat: Chat, argument: str) -> None:
    """Write the last message anew, or the first one, and send it."""
    exchanges = chat.talk.exchanges
    written = edit(exchanges[-1].asked if exchanges else "").strip()
    if not written or (exchanges and written == exchanges[-1].asked):
        chat.terminal.remark("Nothing is sent.")
    elif exchanges:
        chat.talk.again(written)
        chat.keeper.keep(chat.talk)
    else:
        chat.send(written)
