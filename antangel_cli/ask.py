"""`antangel ask`: one question, one answer."""

from __future__ import annotations

import json
from typing import Any

from antangel_cli.announce import announce, opened, print_stats
from antangel_cli.auditing import Audit, audited
from antangel_cli.cases import is_chinese, red_flag_lines, red_flag_records
from antangel_cli.clinic.dose import withhold_doses
from antangel_cli.clinic.model import Model, Turn
from antangel_cli.clinic.notice import DEMONSTRATION, NOTICE
from antangel_cli.clinic.prompt import load_prompt
from antangel_cli.conversation import DoseFilter, Generated, generate, sampling_of
from antangel_cli.errors import GenerationError, RejectedError, UsageError
from antangel_cli.files import STDIN, decode, read_input
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal

SCHEMA = "antangel.answer/1"


def ask(settings: Settings, words: tuple[str, ...]) -> int:
    """Answer on stdout; red flags in the question beneath it, on stderr."""
    terminal = Terminal.of(settings)
    with audited(settings, terminal, "ask") as audit:
        return _ask(settings, words, terminal, audit)


def _ask(settings: Settings, words: tuple[str, ...], terminal: Terminal, audit: Audit) -> int:
    question = read_question(words, settings.no_input)
    chinese = is_chinese(question)
    announce(terminal, chinese)
    with opened(settings, terminal, chinese) as model:
        if model.demonstration and not settings.json:
            terminal.answer(f"{DEMONSTRATION['zh' if chinese else 'en']}\n")
        reply = terminal.reply()
        shown = DoseFilter(_ignore if settings.json else reply.feed, chinese)
        answer = generate(model, _turns(question, chinese), settings, sampling_of(settings), shown.feed)
        shown.finish()
        reply.finish()
        _require_answer(answer)
        if settings.json:
            terminal.answer(json.dumps(_record(question, answer, model, settings), ensure_ascii=False))
        audit.reply(question, answer.text, model, red_flag_records(question, chinese))
        for line in red_flag_lines(question, chinese):
            terminal.note(line)
        print_stats(settings, terminal, model)
    return 0


def _ignore(text: str) -> None:
    """JSON is printed whole, at the end."""


def _turns(question: str, chinese: bool) -> tuple[Turn, Turn]:
    prompt = load_prompt("ask", chinese)
    system = "\n\n".join(part for part in (prompt.system, prompt.instructions) if part)
    return Turn("system", system), Turn("user", question)


def read_question(words: tuple[str, ...], no_input: bool) -> str:
    """The question of `TEXT`, `-`, or `TEXT -`: in the last, what is on stdin follows the text as data."""
    if len(words) > 2 or (len(words) == 2 and (words[1] != STDIN or words[0] == STDIN)):
        raise UsageError("There are too many words.", "Put the question in quotes, or pipe it in: antangel ask -")
    parts = [word for word in words if word != STDIN]
    if STDIN in words:
        parts.append(decode(read_input(STDIN, no_input), "stdin").strip())
    question = "\n\n".join(part for part in parts if part.strip())
    if not question:
        raise RejectedError("The question is empty.", "Ask something.", stage="input")
    return question


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


def _record(question: str, answer: Generated, model: Model, settings: Settings) -> dict[str, Any]:
    chinese = is_chinese(question)
    return {
        "schema": SCHEMA,
        "status": "demonstration" if model.demonstration else "ok",
        "notice": NOTICE["zh" if chinese else "en"],
        "text": withhold_doses(answer.text, chinese),
        "finish": answer.finish,
        "rule_red_flags": red_flag_records(question, chinese),
        "provenance": {
            "model": model.provenance,
            "sampling": vars(sampling_of(settings)),
            "tokens": {"prompt": answer.prompt_tokens, "generated": answer.tokens},
        },
    }
