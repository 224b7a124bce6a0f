"""The answer to an OpenAI batch request, made as `ask` makes one, in OpenAI's form.

The form of a line is that of "The request output object" in OpenAI's API reference, read in the copy that
tourze/open-ai-api-bundle keeps (openai-docs-api-reference/batch/request-output.md).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from antangel_cli.auditing import Audit
from antangel_cli.batching.fingerprint import Fingerprint
from antangel_cli.batching.openai_lines import ChatRequest
from antangel_cli.batching.work import Done, Record, signed
from antangel_cli.clinic.model import Model, Piece, Sampling, Task, Turn
from antangel_cli.clinic.notice import DEMONSTRATION, NOTICE
from antangel_cli.clinic.privacy import without_identifiers
from antangel_cli.clinic.prompt import load_prompt
from antangel_cli.clinic.provenance import tool
from antangel_cli.clinic.reply_checks import reply_checks
from antangel_cli.clinic.rules import rules_provenance
from antangel_cli.clinic.spoken import Spoken
from antangel_cli.conversation import sampling_of
from antangel_cli.errors import CommandError, GenerationError, PolicyError, RejectedError
from antangel_cli.options import CaseOptions
from antangel_cli.settings import Settings

ANSWER_SCHEMA = "antangel.answer/1"
ANSWERED, REJECTED, FORBIDDEN, FAILED, TIMED_OUT = 200, 400, 403, 500, 504
"""HTTP's words for what a request came to."""


@dataclass(frozen=True)
class Asked:
    """A request as it is put to the model."""

    request: ChatRequest
    turns: tuple[Turn, ...] = field(repr=False)
    sampling: Sampling
    prompt_tokens: int
    tokens: int
    spoken: Spoken


class ChatWork:
    """A request that is being answered. Construction submits its task.

    Raises RejectedError when it does not fit the context, PolicyError when it sets what is locked.
    """

    def __init__(
        self,
        request: ChatRequest,
        model: Model,
        settings: Settings,
        options: CaseOptions,
        fingerprint: Fingerprint | None,
    ) -> None:
        _require_unlocked(request, settings)
        self._model = model
        self._fingerprint = fingerprint
        self._started = time.monotonic()
        self._asked = _ask(redacted(request) if options.redact else request, model, settings, options.doses)
        asked = self._asked
        self._task = model.submit(Task(asked.turns, asked.sampling, asked.tokens, timeout_s=settings.timeout))
        self._text = ""
        self._tokens = 0
        self._finish: str | None = None
        self._seconds = 0.0

    @property
    def tasks(self) -> tuple[int, ...]:
        """Its one task."""
        return (self._task,)

    @property
    def done(self) -> bool:
        """Whether the reply has ended."""
        return self._finish is not None

    def feed(self, piece: Piece) -> None:
        """Take a piece of the reply."""
        if piece.task != self._task or self.done:
            return
        self._text += piece.text
        self._tokens += piece.tokens
        self._finish = piece.finish
        self._seconds = time.monotonic() - self._started

    def outcome(self) -> Done:
        """The reply, or why there is none."""
        if self._finish in ("stop", "length"):
            return self._reply()
        timed_out = self._finish == "timeout"
        reason = GenerationError(
            f"The time ran out after {self._tokens} tokens." if timed_out else "The generation failed.",
            "Give it longer with --timeout." if timed_out else "Run it again.",
            code="timeout" if timed_out else None,
            stage="text",
        )
        return failed_request(self._asked.request.custom_id, None, reason, self._fingerprint, self._seconds)

    def _reply(self) -> Done:
        request, model = self._asked.request, self._model
        question, system = request.turns[-1].content, "\n\n".join(request.system)
        earlier = [turn.content for turn in request.turns if turn.role == "assistant"]
        checks = reply_checks(question, self._text, self._asked.spoken, earlier)
        record = _line(request.custom_id, ANSWERED, self._body(checks))

        def log(audit: Audit, line: str) -> None:
            audit.reply(question, line, model, checks, system or None)

        return replace(answered(signed(record, self._fingerprint)), seconds=self._seconds, log=log)

    def _body(self, checks: Record) -> Record:
        text = self._asked.spoken.shown(self._text)
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": shown_name(self._model),
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": None},
                    "logprobs": None,
                    "finish_reason": self._finish,
                }
            ],
            "usage": {
                "prompt_tokens": self._asked.prompt_tokens,
                "completion_tokens": self._tokens,
                "total_tokens": self._asked.prompt_tokens + self._tokens,
            },
            "system_fingerprint": None,
            "antangel": self._ours(checks),
        }

    def _ours(self, checks: Record) -> Record:
        """What OpenAI's form has no place for."""
        chinese = self._asked.spoken.case.chinese
        language = "zh" if chinese else "en"
        prompt = load_prompt("ask", chinese)
        return {
            "schema": ANSWER_SCHEMA,
            "status": "demonstration" if self._model.demonstration else "ok",
            "notice": f"{DEMONSTRATION[language]} {NOTICE[language]}"
            if self._model.demonstration
            else NOTICE[language],
            "checks": checks,
            "provenance": {
                "tool": tool(),
                "model": {**self._model.provenance, "demonstration": self._model.demonstration},
                "prompt": {"id": prompt.id, "version": prompt.version, "hash": prompt.hash},
                "system_added": bool(self._asked.request.system),
                "rules": rules_provenance(),
                "sampling": {**vars(self._asked.sampling), "max_tokens": self._asked.tokens},
            },
        }


def shown_name(model: Model) -> str:
    """The model's name; nothing can take a demonstration's for another's."""
    return f"DEMONSTRATION {model.name}" if model.demonstration else model.name


def failed_request(
    custom_id: str | None,
    line: int | None,
    reason: CommandError,
    fingerprint: Fingerprint | None,
    seconds: float | None = None,
) -> Done:
    """The output line of a request without an answer; `line` is the input's, where it never came to the model."""
    status = _http_status(reason)
    kind = "invalid_request_error" if status < FAILED else "server_error"
    told = {"message": reason.record["message"], "type": kind, "param": None, "code": reason.code}
    record = _line(custom_id, status, {"error": told})
    if line is not None:
        record["line"] = line

    def log(audit: Audit, text: str) -> None:
        audit.result({}, text, reason.exit_code)

    judged = {"status": "error"}
    return Done(signed(record, fingerprint), "error", reason.code, judged, seconds, log=log)


def answered(record: Record, offset: int | None = None) -> Done:
    """A reply, this run's or, at `offset`, an earlier one's; how urgent it is, the checks of what was asked say."""
    ours = record["response"]["body"]["antangel"]
    urgency = ours["checks"]["urgency_floor"] or "self_care"
    judged = {"status": ours["status"], "urgency_final": urgency}
    return Done(record, ours["status"], None, judged, offset=offset)


def _line(custom_id: str | None, status: int, body: Mapping[str, Any]) -> Record:
    response = {"status_code": status, "request_id": f"req_{uuid.uuid4().hex}", "body": body}
    return {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": custom_id, "response": response, "error": None}


def _http_status(reason: CommandError) -> int:
    if reason.code == "timeout":
        return TIMED_OUT
    if isinstance(reason, PolicyError):
        return FORBIDDEN
    return REJECTED if isinstance(reason, RejectedError) else FAILED


def _ask(request: ChatRequest, model: Model, settings: Settings, doses: bool) -> Asked:
    spoken = Spoken.of(None, [turn.content for turn in request.turns if turn.role == "user"], doses)
    prompt = load_prompt("ask", spoken.case.chinese)
    system = "\n\n".join(part for part in (prompt.system, prompt.instructions, *request.system) if part)
    turns = (Turn("system", system), *request.turns)
    prompt_tokens = model.count(turns)
    room = model.context - prompt_tokens
    if room < 1:
        message = f"The messages make {prompt_tokens} tokens, and {model.context} fit."
        raise RejectedError(message, "Shorten them.", code="too_long", stage="prompt")
    sampling = replace(sampling_of(settings), **request.sampling)
    return Asked(request, turns, sampling, prompt_tokens, min(request.max_tokens or settings.max_tokens, room), spoken)


def redacted(request: ChatRequest) -> ChatRequest:
    """A request in whose messages what has the form of an identifier is removed."""
    turns = tuple(Turn(turn.role, without_identifiers(turn.content)[0]) for turn in request.turns)
    system = tuple(without_identifiers(text)[0] for text in request.system)
    return replace(request, turns=turns, system=system)


def _require_unlocked(request: ChatRequest, settings: Settings) -> None:
    given = {
        *request.sampling,
        *(["max_tokens"] if request.max_tokens else []),
        *(["system"] if request.system else []),
    }
    for name in sorted(given & {*settings.locked}):
        raise PolicyError(f"{name} is locked by {settings.origin('locked')}.", "Leave it out of the request.")
