"""`antangel ask`: one question, one answer."""

from __future__ import annotations

import json
from typing import Any

from antangel_cli.announce import announce, opened, print_stats
from antangel_cli.auditing import Audit, audited
from antangel_cli.cases import red_flag_line
from antangel_cli.chatting.attachment import fenced
from antangel_cli.clinic.model import Model, Turn
from antangel_cli.clinic.notice import DEMONSTRATION, NOTICE
from antangel_cli.clinic.prompt import load_prompt
from antangel_cli.clinic.readers.intake import clean
from antangel_cli.clinic.reply_checks import lines_beneath, reply_checks
from antangel_cli.clinic.spoken import Spoken
from antangel_cli.conversation import Generated, sampling_of, stream
from antangel_cli.errors import GenerationError, RejectedError, UsageError
from antangel_cli.files import STDIN, decode, read_input
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal

SCHEMA = "antangel.answer/1"


def ask(settings: Settings, words: tuple[str, ...]) -> int:
    """Answer on stdout; the red flags of the question above it and the checks beneath it, on stderr."""
    terminal = Terminal.of(settings)
    with audited(settings, terminal, "ask") as audit:
        return _ask(settings, words, terminal, audit)


def _ask(settings: Settings, words: tuple[str, ...], terminal: Terminal, audit: Audit) -> int:
    text, data = read_question(words, settings.no_input)
    question = "\n\n".join(part for part in (text, data) if part)
    spoken = Spoken.of(None, [question])
    chinese = spoken.case.chinese
    announce(terminal, chinese)
    for fired in spoken.checks.red_flags:
        terminal.note(red_flag_line(fired, chinese))
    with opened(settings, terminal, chinese) as model:
        if model.demonstration and not settings.json:
            terminal.answer(f"{DEMONSTRATION['zh' if chinese else 'en']}\n")
        turns = _turns(text, data, chinese)
        answer = stream(model, turns, settings, sampling_of(settings), terminal, spoken.shown)
        _require_answer(answer)
        checks = reply_checks(question, answer.text, spoken)
        if settings.json:
            terminal.answer(json.dumps(_record(answer, checks, spoken, model, settings), ensure_ascii=False))
        audit.reply(question, answer.text, model, checks)
        for line in lines_beneath(checks, chinese):
            terminal.note(line)
        print_stats(settings, terminal, model)
    return 0


def _turns(text: str, data: str, chinese: bool) -> tuple[Turn, Turn]:
    """The question; what came from stdin behind it stands between marks, as data."""
    prompt = load_prompt("ask", chinese)
    system = "\n\n".join(part for part in (prompt.system, prompt.instructions) if part)
    asked = f"{text}\n\n{fenced(data, chinese)}" if text and data else text or data
    return Turn("system", system), Turn("user", asked)


def read_question(words: tuple[str, ...], no_input: bool) -> tuple[str, str]:
    """The question of `TEXT`, `-`, or `TEXT -`, and what is on stdin as data; of `-`, that is the question."""
    if len(words) > 2 or (len(words) == 2 and (words[1] != STDIN or words[0] == STDIN)):
        raise UsageError("There are too many words.", "Put the question in quotes, or pipe it in: antangel ask -")
    text = " ".join(word.strip() for word in words if word != STDIN)
    data = clean(decode(read_input(STDIN, no_input), "stdin"))[0].strip() if STDIN in words else ""
    if not text and not data:
        raise RejectedError("The question is empty.", "Ask something.", stage="input")
    return text, data


def _require_answer(answer: Generated) -> None:
    if answer.finish == "timeout":
        raise GenerationError(
            f"The time ran out after {answer.tokens} tokens.",
            "Give it longer with --timeout.",
            code="timeout",
            stage="text",
        )
    if answer.finish not in ("stop", "length"):
        raise GenerationError("The generation failed.", "Run it again with --debug.", stage="text")


def _record(
    answer: Generated, checks: dict[str, Any], spoken: Spoken, model: Model, settings: Settings
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "status": "demonstration" if model.demonstration else "ok",
        "notice": NOTICE["zh" if spoken.case.chinese else "en"],
        "text": spoken.shown(answer.text),
        "finish": answer.finish,
        "checks": checks,
        "provenance": {
            "model": model.provenance,
            "sampling": vars(sampling_of(settings)),
            "tokens": {"prompt": answer.prompt_tokens, "generated": answer.tokens},
        },
    }
