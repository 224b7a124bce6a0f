"""The conversation: the turns so far, the case they are about, and what sending a message does."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace

from antangel_cli.auditing import Audit
from antangel_cli.cases import Checked, is_chinese, red_flag_line, report
from antangel_cli.chatting.attachment import fenced
from antangel_cli.chatting.beneath import ENDED, footer, record
from antangel_cli.chatting.interrupts import Interrupts
from antangel_cli.chatting.session import Exchange, now
from antangel_cli.clinic.checks import red_flags_in_text
from antangel_cli.clinic.model import Finish, Model, Turn
from antangel_cli.clinic.prompt import load_prompt
from antangel_cli.clinic.reply_checks import lines_beneath, reply_checks
from antangel_cli.clinic.spoken import Spoken
from antangel_cli.conversation import Generated, sampling_of, stream
from antangel_cli.errors import UsageError
from antangel_cli.setting_values import KEYS
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal

NARROW = 256
"""Room for a reply, in tokens, below which it is said to be little."""


class Conversation:
    """Turns, case, added instructions and settings. Raises CommandError for what cannot be done."""

    def __init__(
        self,
        model: Model,
        settings: Settings,
        terminal: Terminal,
        system: str | None = None,
        audit: Audit | None = None,
        doses: bool = False,
    ) -> None:
        self.model = model
        self.settings = settings
        self.terminal = terminal
        self.system = system
        self.audit = audit or Audit(settings, terminal, "chat")
        self.doses = doses
        self.interrupts = Interrupts()
        self.seed = settings.seed if settings.seed is not None else secrets.randbelow(2**31)
        self.case: Checked | None = None
        self.exchanges: list[Exchange] = []
        self.attached: list[str] = []
        self.created = now()
        self.last_finish: Finish | None = None
        self.alarmed: set[str] = set()

    @property
    def last(self) -> Exchange:
        """The last turn. Raises UsageError where there is none."""
        if not self.exchanges:
            raise UsageError("Nothing has been said yet.", "Write a message.")
        return self.exchanges[-1]

    def spoken(self, *more: str) -> Spoken:
        """The patient as the case and all messages so far, and some more, tell of them."""
        said = [text for exchange in self.exchanges for text in (*exchange.attached, exchange.asked)]
        return Spoken.of(self.case.case if self.case else None, [*said, *more], self.doses)

    def is_chinese(self, message: str = "") -> bool:
        """The language of the instructions: the case's, else the first message's, so that it never changes."""
        if self.case is not None:
            return self.case.case.chinese
        return is_chinese(self.exchanges[0].asked if self.exchanges else message)

    def begin(self, loaded: Checked | None) -> None:
        """Begin anew, about a case or without one: two patients never share a conversation."""
        self.case = loaded
        self.exchanges, self.attached, self.created = [], [], now()
        self.alarmed = {fired.rule.id for fired in loaded.checks.red_flags} if loaded else set()
        if loaded is not None:
            report(self.terminal, loaded)

    def send(self, message: str, seed: int | None = None) -> bool:
        """Send a message with what is attached and stream the reply; whether there was one, and so a turn more."""
        spoken = self.spoken(*self.attached, message)
        self._alarm(message, spoken)
        asked = self._rendered(message)
        used = self.seed if seed is None else seed
        answer = self._stream([*self.turns(message), Turn("user", asked)], spoken, used)
        earlier = [exchange.reply for exchange in self.exchanges]
        checks = reply_checks("\n".join((*self.attached, message)), answer.text, spoken, earlier)
        replied = bool(answer.text.strip())
        if replied:
            self._keep(message, asked, answer, used)
        self.audit.reply(message, answer.text, self.model, checks, self.system)
        if self.settings.json:
            made = record(spoken.shown(answer.text), answer, self.model, checks, used)
            self.terminal.answer(json.dumps(made, ensure_ascii=False))
        self._print_beneath(lines_beneath(checks, spoken.case.chinese), answer, used)
        return replied

    def again(self, message: str, seed: int | None = None) -> None:
        """Send a message in place of the last one, with the same files; the old turn stays where nothing comes."""
        last, pending = self.last, self.attached
        self.exchanges, self.attached = self.exchanges[:-1], [*last.attached]
        replied = False
        try:
            replied = self.send(message, seed)
        finally:
            self.attached = pending
            if not replied:
                self.exchanges.append(last)

    def undo(self) -> None:
        """Take the last turn back. Raises UsageError where there is none."""
        last = self.last
        self.exchanges = [exchange for exchange in self.exchanges if exchange is not last]

    def _keep(self, message: str, sent: str, answer: Generated, seed: int) -> None:
        self.exchanges.append(
            Exchange(
                asked=message,
                attached=tuple(self.attached),
                sent=sent,
                reply=answer.text,
                finish=answer.finish,
                tokens=answer.tokens,
                seed=seed,
                at=now(),
            )
        )
        self.attached = []

    def _rendered(self, message: str) -> str:
        """A message as the model gets it: the case before the first, then the files, then the words."""
        block = [self.case.block] if self.case and not self.exchanges else []
        files = [fenced(text, self.is_chinese(message)) for text in self.attached]
        return "\n\n".join([*block, *files, message])

    def turns(self, message: str = "") -> list[Turn]:
        """The conversation so far, as the model is told it before a message."""
        turns = [self._instructions(self.is_chinese(message))]
        for exchange in self.exchanges:
            turns += [Turn("user", exchange.sent), Turn("assistant", exchange.reply)]
        return turns

    def _instructions(self, chinese: bool) -> Turn:
        prompt = load_prompt("ask", chinese)
        parts = (prompt.system, prompt.instructions, self.system)
        return Turn("system", "\n\n".join(part for part in parts if part))

    def _stream(self, turns: list[Turn], spoken: Spoken, seed: int) -> Generated:
        room = self.model.context - self.model.count(turns)
        if 0 < room < NARROW:
            self.terminal.remark(f"The context is nearly full: {room} tokens are left for this reply.")
        sampling, stop = sampling_of(self.settings, seed), self.interrupts.asked
        answer = stream(self.model, turns, self.settings, sampling, self.terminal, spoken.shown, stop)
        self.last_finish = answer.finish
        return answer

    def _alarm(self, message: str, spoken: Spoken) -> None:
        """Say the red flags of a message, before the model runs: those it raises, and those it completes."""
        said = {fired.rule.id for fired in red_flags_in_text(message)}
        for fired in spoken.checks.red_flags:
            if fired.rule.id in said or fired.rule.id not in self.alarmed:
                self.terminal.note(red_flag_line(fired, spoken.case.chinese))
        self.alarmed |= {fired.rule.id for fired in spoken.checks.red_flags}

    def _print_beneath(self, lines: list[str], answer: Generated, seed: int) -> None:
        for line in lines:
            self.terminal.note(line)
        if ended := ENDED.get(answer.finish):
            self.terminal.note(ended)
        self.terminal.remark(footer(answer, self.model, seed))

    def change(self, key: str, value: object, origin: str) -> None:
        """Change a setting. Raises UsageError for a value that it cannot have."""
        try:
            parsed = KEYS[key](value)
        except ValueError as error:
            raise UsageError(f"{key.replace('_', '-')} must be {error}.", "Correct the value.") from None
        self.settings = replace(self.settings, **{key: parsed}, origins={**self.settings.origins, key: origin})
        if key == "seed":
            self.seed = parsed
