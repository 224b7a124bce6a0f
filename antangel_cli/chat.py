"""`antangel chat`: a conversation, streamed; nothing of it is kept on disk unless asked."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace

from antangel_cli.announce import announce, opened, print_stats
from antangel_cli.auditing import audited
from antangel_cli.chatting.answers import load_case
from antangel_cli.chatting.attachment import read_attachment
from antangel_cli.chatting.beneath import FAILED
from antangel_cli.chatting.commands import BARE, obey
from antangel_cli.chatting.interrupts import EndedError, Interrupts, ended_by_signals
from antangel_cli.chatting.keeping import Keeper
from antangel_cli.chatting.keyboard import Read, prompt_reader, read_line, read_typed_line
from antangel_cli.chatting.state import Chat
from antangel_cli.chatting.talk import Conversation
from antangel_cli.clinic.readers.intake import clean
from antangel_cli.errors import INTERRUPTED, CommandError, GenerationError, UsageError
from antangel_cli.options import ChatOptions
from antangel_cli.outcome import describe
from antangel_cli.policy import refuse_locked
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal

__all__ = ["Chat", "Conversation", "Interrupts", "chat", "converse", "prompt_reader", "read_line"]


def chat(settings: Settings, options: ChatOptions) -> int:
    """Converse until the end of the input, or until a signal ends it."""
    try:
        with ended_by_signals():
            return _chat(settings, options)
    except EndedError as ended:
        return ended.code


def _chat(settings: Settings, options: ChatOptions) -> int:
    terminal = replace(Terminal.of(settings), render=options.render)
    interactive = sys.stdin.isatty()
    if interactive and settings.no_input:
        raise UsageError("chat asks for messages, and --no-input forbids it.", "Pipe messages in, one a line.")
    _require_one_way(options)
    system = _system(settings, options)
    loaded = load_case(options.case) if options.case else None
    chinese = loaded.case.chinese if loaded else settings.lang == "zh"
    announce(terminal, chinese)
    with contextlib.ExitStack() as stack:
        audit = stack.enter_context(audited(settings, terminal, "chat", options))
        keeper = Keeper(settings, terminal)
        session = keeper.ready(options.session, options.resume, options.history, about_case=loaded is not None)
        model = stack.enter_context(opened(settings, terminal, chinese))
        found = Chat(Conversation(model, settings, terminal, system, audit, options.doses), keeper)
        if loaded:
            found.talk.begin(loaded)
        keeper.start(found.talk, session)
        if interactive:
            terminal.remark("/help lists the commands; Ctrl-D leaves.")
        code = converse(found, _reader(options, interactive), interactive)
        if code != INTERRUPTED:
            keeper.keep_computed(found.talk)
        print_stats(settings, terminal, model)
    return code


def _reader(options: ChatOptions, interactive: bool) -> Read:
    if not interactive:
        return read_line
    return read_typed_line if os.environ.get("TERM") == "dumb" else prompt_reader(vi=options.vi)


def _require_one_way(options: ChatOptions) -> None:
    """A session has its own case; there is one session. Raises UsageError."""
    if options.session is not None and options.resume:
        raise UsageError("--session and --resume exclude each other.", "Leave one of them out.")
    if options.resume and options.case:
        raise UsageError("--resume and --case exclude each other.", "Load the case in the chat: /case FILE")
    if options.system and options.system_file:
        raise UsageError("--system and --system-file exclude each other.", "Leave one of them out.")


def _system(settings: Settings, options: ChatOptions) -> str | None:
    """What is added to the instructions. Raises UsageError, RejectedError, PolicyError."""
    if options.system_file is None:
        return options.system
    refuse_locked(["system"], settings.locked, settings.origin("locked"))
    return read_attachment(options.system_file).text


def converse(found: Chat, read: Read, interactive: bool) -> int:
    """Read and answer messages. What fails is shown; without a terminal its exit code is kept for the end.

    Raises KeyboardInterrupt where a second Ctrl-C cut an answer in two.
    """
    code, interrupts = 0, found.talk.interrupts
    while not found.left:
        try:
            message = read()
        except EOFError:
            break
        except EndedError:
            raise
        except KeyboardInterrupt:
            if not interactive or interrupts.press():
                return INTERRUPTED
            found.terminal.remark("Ctrl-C again leaves.")
            continue
        except CommandError as error:
            found.terminal.failure(error)
            code = code if interactive else error.exit_code
            continue
        failed = take(found, message)
        if not interactive:
            if interrupts.asked():
                return INTERRUPTED
            code = failed or code
    return code


def take(found: Chat, message: str) -> int:
    """Obey a command, or send a message; the exit code that a failure stands for, 0 without one.

    Ctrl-C stops a reply; a second within a second raises KeyboardInterrupt.
    """
    message, found.talk.last_finish = clean(message)[0].strip(), None
    try:
        with found.talk.interrupts.watching():
            if message.startswith("/") or message.lower() in BARE:
                obey(found, message)
            elif message:
                found.send(message)
    except Exception as error:
        failure = describe(error)
        if not isinstance(error, CommandError) and failure.code == "internal":
            raise
        found.terminal.failure(failure)
        return failure.exit_code
    return GenerationError.exit_code if found.talk.last_finish in FAILED else 0
