"""`antangel chat`: a conversation, streamed; nothing of it is kept on disk."""

from __future__ import annotations

import contextlib
import difflib
import json
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

from antangel_cli.announce import announce, opened, print_stats
from antangel_cli.auditing import Audit, audited
from antangel_cli.cases import Checked, is_chinese, read_one, red_flag_lines, red_flag_records, report
from antangel_cli.clinic.dose import withhold_doses
from antangel_cli.clinic.model import Model, Turn
from antangel_cli.clinic.prompt import load_prompt
from antangel_cli.conversation import DoseFilter, Generated, generate, sampling_of
from antangel_cli.errors import INTERRUPTED, CommandError, UsageError
from antangel_cli.options import CaseOptions
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal

if TYPE_CHECKING:
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.output import Output

TWICE_WITHIN_S = 1.0
HELP = """/help        this list
/case FILE   begin anew, about the case in FILE
/clear       begin anew, without a case
/exit        leave; so does Ctrl-D
Enter sends; Alt-Enter or Ctrl-J is a new line. Ctrl-C clears the line or stops the reply; twice leaves."""

Read = Callable[[], str]
"""Gives the next message; raises EOFError at the end, KeyboardInterrupt for Ctrl-C."""


def chat(settings: Settings, case: str | None, system: str | None) -> int:
    """Converse until the end of the input."""
    terminal = Terminal.of(settings)
    interactive = sys.stdin.isatty()
    if interactive and settings.no_input:
        raise UsageError("chat asks for messages, and --no-input forbids it.", "Pipe messages in, one a line.")
    loaded = load_case(case) if case else None
    chinese = loaded.case.chinese if loaded else settings.lang == "zh"
    announce(terminal, chinese)
    with audited(settings, terminal, "chat") as audit, opened(settings, terminal, chinese) as model:
        conversation = Conversation(model, settings, terminal, system, audit)
        if loaded:
            conversation.begin(loaded)
        if interactive:
            terminal.remark("/help lists the commands; Ctrl-D leaves.")
        code = converse(conversation, prompt_reader() if interactive else read_line, interactive)
        print_stats(settings, terminal, model)
    return code


def load_case(place: str) -> Checked:
    """Read and check the case of a file. Raises UsageError or InputError."""
    return Checked.of(read_one(place, CaseOptions()))


def converse(conversation: Conversation, read: Read, interactive: bool) -> int:
    """Read and answer messages. What fails is shown; without a terminal its exit code is kept for the end."""
    code = 0
    while not conversation.left:
        try:
            message = read()
        except EOFError:
            break
        except KeyboardInterrupt:
            if not interactive or conversation.interrupts.press():
                return INTERRUPTED
            conversation.terminal.remark("Ctrl-C again leaves.")
            continue
        try:
            conversation.take(message)
        except KeyboardInterrupt:
            return INTERRUPTED
        except CommandError as error:
            conversation.terminal.failure(error)
            code = code if interactive else error.exit_code
    return code


def read_line() -> str:
    """The next line of stdin."""
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def prompt_reader(input: Input | None = None, output: Output | None = None) -> Read:
    """Messages typed at a terminal. The prompt is drawn on stderr: stdout carries only the replies."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import InMemoryHistory
    from prompt_toolkit.output import create_output

    session: PromptSession[str] = PromptSession(
        "> ",
        multiline=True,
        history=InMemoryHistory(),
        key_bindings=_keys(),
        prompt_continuation="  ",
        input=input,
        output=output or create_output(sys.stderr),
    )
    return session.prompt


def _keys() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def _newline(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


class Interrupts:
    """Ctrl-C in a chat: the first stops what is running, a second within a second leaves."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = float("-inf")
        self._stopped = False

    def press(self) -> bool:
        """Note a Ctrl-C; whether it is the second within a second."""
        now = self._clock()
        again = now - self._last < TWICE_WITHIN_S
        self._last = now
        return again

    def asked(self) -> bool:
        """Whether the reply that is being written should stop."""
        return self._stopped

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While a reply is written, turn Ctrl-C into `stopped`, so that no step is cut in two."""
        self._stopped = False
        previous = signal.signal(signal.SIGINT, self._on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stopped = True
        if self.press():
            raise KeyboardInterrupt


class Conversation:
    """The turns so far, the case they are about, and what a message does."""

    def __init__(
        self,
        model: Model,
        settings: Settings,
        terminal: Terminal,
        system: str | None = None,
        audit: Audit | None = None,
    ) -> None:
        self.terminal = terminal
        self.interrupts = Interrupts()
        self.left = False
        self._model = model
        self._settings = settings
        self._system = system
        self._audit = audit or Audit(settings, terminal, "chat")
        self._seed = settings.seed if settings.seed is not None else secrets.randbelow(2**31)
        self._case: Checked | None = None
        self._turns: list[Turn] = []
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: terminal.note(HELP),
            "/case": lambda place: self.begin(load_case(place)),
            "/clear": lambda _: self._clear(),
            "/exit": lambda _: self._leave(),
        }

    def take(self, message: str) -> None:
        """Obey a command, or send a message and stream the reply. Raises CommandError."""
        message = message.strip()
        if message.startswith("/"):
            self._obey(message)
        elif message:
            self._send(message)

    def begin(self, loaded: Checked) -> None:
        """Begin anew about a case: two patients never share a conversation."""
        self._clear()
        self._case = loaded
        report(self.terminal, loaded)

    def _clear(self) -> None:
        if self._turns:
            self.terminal.remark("A new conversation.")
        self._case, self._turns = None, []

    def _leave(self) -> None:
        self.left = True

    def _obey(self, message: str) -> None:
        name, _, argument = message.partition(" ")
        argument = argument.strip()
        if name not in self._commands:
            near = difflib.get_close_matches(name, self._commands, 1, 0.4)
            raise UsageError(
                "There is no such command.",
                f"Did you mean {near[0]}?" if near else "/help lists the commands.",
            )
        if (name == "/case") != bool(argument):
            raise UsageError(f"{name} takes {'a file' if name == '/case' else 'nothing after it'}.", "See /help.")
        self._commands[name](argument)

    def _send(self, message: str) -> None:
        chinese = self._case.case.chinese if self._case else is_chinese(message)
        first = not self._turns
        turns = [self._instructions(chinese)] if first else list(self._turns)
        turns.append(Turn("user", f"{self._case.block}\n\n{message}" if first and self._case else message))
        answer = self._stream(turns, chinese)
        if answer.text.strip():
            self._turns = [*turns, Turn("assistant", answer.text)]
        self._print_beneath(message, answer, chinese)

    def _stream(self, turns: list[Turn], chinese: bool) -> Generated:
        reply = self.terminal.reply()
        shown = DoseFilter(_ignore if self._settings.json else reply.feed, chinese)
        sampling = sampling_of(self._settings, self._seed)
        with self.interrupts.watching():
            answer = generate(self._model, turns, self._settings, sampling, shown.feed, self.interrupts.asked)
        shown.finish()
        reply.finish()
        return answer

    def _instructions(self, chinese: bool) -> Turn:
        prompt = load_prompt("ask", chinese)
        parts = (prompt.system, prompt.instructions, self._system)
        return Turn("system", "\n\n".join(part for part in parts if part))

    def _print_beneath(self, message: str, answer: Generated, chinese: bool) -> None:
        if self._settings.json:
            record = {
                "status": "demonstration" if self._model.demonstration else "ok",
                "text": withhold_doses(answer.text, chinese),
                "finish": answer.finish,
                "tokens": answer.tokens,
                "seed": self._seed,
            }
            self.terminal.answer(json.dumps(record, ensure_ascii=False))
        self._audit.reply(message, answer.text, self._model, red_flag_records(message, chinese))
        for line in red_flag_lines(message, chinese):
            self.terminal.note(line)
        if ended := _ENDED.get(answer.finish):
            self.terminal.note(ended)
        self.terminal.remark(self._footer(answer))

    def _footer(self, answer: Generated) -> str:
        rate = f"{answer.rate:.1f} tokens/s" if answer.rate else "- tokens/s"
        first = f"{answer.ttft_s:.2f} s" if answer.ttft_s is not None else "-"
        used = answer.prompt_tokens + answer.tokens
        demonstration = "DEMONSTRATION, " if self._model.demonstration else ""
        return (
            f"[{demonstration}{answer.tokens} tokens, {rate}, first after {first}, "
            f"context {used} of {self._model.context}, seed {self._seed}]"
        )


def _ignore(text: str) -> None:
    """JSON is printed whole, when the reply has ended."""


_ENDED = {
    "length": "The reply ends here: it reached --max-tokens, or the context is full.",
    "abort": "Stopped; what came is kept.",
    "timeout": "The reply ends here: its time ran out (--timeout).",
    "error": "The reply ends here: the generation failed.",
}
