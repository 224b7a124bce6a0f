"""An OpenAI batch request on a line: `custom_id, method, url, body`, read strictly.

What would change the answer and cannot be done (tools, images, several choices, a stream) is refused and never ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from antangel_cli.case_lines import ID, ID_FORM, BadLineError, parse_object
from antangel_cli.clinic.model import Role, Turn
from antangel_cli.errors import RejectedError
from antangel_cli.lines import Line

METHOD, URL = "POST", "/v1/chat/completions"
ROLES: Mapping[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

_NUMBERS: Mapping[str, tuple[type, float, float]] = {
    "temperature": (float, 0, 5),
    "top_p": (float, 1e-9, 1),
    "seed": (int, 0, 2**63 - 1),
    "max_tokens": (int, 1, 2**31),
    "max_completion_tokens": (int, 1, 2**31),
}
"""What of a body steers the sampling: its type, its least and its most."""

_NO_EFFECT = ("model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
"""The model that answers is the configured one; the rest is between a client and OpenAI."""

_AS_IT_IS: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "stream": (False,),
    "response_format": ({"type": "text"},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "stop": ([],),
}
"""What is taken only with the value that asks for nothing."""


class BadRequestError(BadLineError):
    """A line is an OpenAI batch request, and one that cannot be answered."""


@dataclass(frozen=True)
class ChatRequest:
    """A request: the conversation, what it adds to the safety text, and its own sampling."""

    custom_id: str
    turns: tuple[Turn, ...] = field(repr=False)
    system: tuple[str, ...] = field(repr=False)
    sampling: Mapping[str, Any]
    max_tokens: int | None
    canonical: str = field(repr=False)


def is_request(content: Mapping[str, Any]) -> bool:
    """Whether an object is meant as an OpenAI batch request."""
    return "custom_id" in content and "schema" not in content


def read_request(line: Line) -> ChatRequest | None:
    """The request on a line; None if it is none. Raises BadRequestError, and BadLineError for what is no JSON."""
    if b'"custom_id"' not in (line.data or b""):
        return None
    content = parse_object(line)
    return _request(content, line.number) if is_request(content) else None


def _request(content: dict[str, Any], number: int) -> ChatRequest:
    custom_id = content["custom_id"]
    if not isinstance(custom_id, str) or not ID.fullmatch(custom_id):
        _refuse(None, f"The custom_id of line {number} has a form that is not taken.", ID_FORM, "bad_id")
    try:
        return _read(custom_id, content)
    except _RefusedError as refused:
        _refuse(custom_id, f"Line {number}: {refused.message}", refused.remedy, refused.code)


def _read(custom_id: str, content: dict[str, Any]) -> ChatRequest:
    if content.get("method") != METHOD:
        raise _RefusedError("the method is not POST.", "Use POST.", "unsupported_method")
    if content.get("url") != URL:
        raise _RefusedError(f"the url is not {URL}.", f"Use {URL}.", "unsupported_url")
    body = content.get("body")
    if not isinstance(body, dict):
        raise _RefusedError("the body is no object.", "Give model and messages in it.", "bad_body")
    body = {key: value for key, value in body.items() if value is not None}
    _require_known(body)
    numbers = {key: _number(key, body[key]) for key in _NUMBERS if key in body}
    limits = [numbers.pop(key) for key in ("max_tokens", "max_completion_tokens") if key in numbers]
    said = [_turn(message, i) for i, message in enumerate(_messages(body), 1)]
    turns = tuple(turn for turn in said if turn.role != "system")
    if not turns or turns[-1].role != "user":
        raise _RefusedError("the last message is not the user's.", "End with a message of role user.", "bad_messages")
    system = tuple(turn.content for turn in said if turn.role == "system")
    text = json.dumps({"custom_id": custom_id, "body": body}, sort_keys=True)
    return ChatRequest(custom_id, turns, system, numbers, min(limits, default=None), text)


def _require_known(body: Mapping[str, Any]) -> None:
    """Refuse what is not known; a key is named only where it is one of OpenAI's."""
    for key, value in body.items():
        if key in _AS_IT_IS and not any(value == taken and type(value) is type(taken) for taken in _AS_IT_IS[key]):
            raise _RefusedError(f"{key} is not supported.", "Leave it out.", "unsupported_parameter")
        if key not in _AS_IT_IS and key not in _NUMBERS and key not in _NO_EFFECT and key != "messages":
            raise _RefusedError(
                "a key of the body is not supported.",
                f"Taken are model, messages, {', '.join(_NUMBERS)}.",
                "unsupported_parameter",
            )


def _number(key: str, value: Any) -> Any:
    kind, least, most = _NUMBERS[key]
    right = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    if not right or not math.isfinite(value) or not least <= value <= most:
        raise _RefusedError(f"{key} is out of range.", f"Give {key} from {least:g} to {most:g}.", "bad_parameter")
    return kind(value)


def _messages(body: Mapping[str, Any]) -> list[Any]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _RefusedError("there are no messages.", "Give a list of messages.", "bad_messages")
    return messages


def _turn(message: Any, number: int) -> Turn:
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str) or role not in ROLES:
        raise _RefusedError(f"message {number} has no role that is taken.", f"Use {', '.join(ROLES)}.", "bad_messages")
    if any(value is not None for key, value in message.items() if key not in ("role", "content", "name", "refusal")):
        raise _RefusedError(f"message {number} is more than text.", "Give role and content.", "unsupported_content")
    return Turn(ROLES[role], _text(message.get("content"), number))


def _text(content: Any, number: int) -> str:
    """A message's text: a string, or OpenAI's list of parts where all are text."""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise _RefusedError(f"message {number} is not text.", "Give its content as text.", "unsupported_content")
    text = "\n".join(map(str, texts))
    if not text.strip():
        raise _RefusedError(f"message {number} is empty.", "Say something in it.", "bad_messages")
    return text.encode("utf-8", "replace").decode()


class _RefusedError(Exception):
    """Why a request is refused; the line's number is added further up."""

    def __init__(self, message: str, remedy: str, code: str) -> None:
        super().__init__(message)
        self.message, self.remedy, self.code = message, remedy, code


def _refuse(custom_id: str | None, message: str, remedy: str, code: str) -> NoReturn:
    raise BadRequestError(custom_id, RejectedError(message, remedy, code=code, stage="input"))
