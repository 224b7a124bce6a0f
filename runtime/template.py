"""Chat templates: a conversation as segments, each either a literal of the template or untrusted content.

The two are tokenised apart, so that nothing a message says can become a control token. There are two
renderers: the Ling 2.0 template written out here, and any Jinja template a checkpoint brings.

Limits of the second: a template sees a placeholder instead of each content. White space at both ends, the
`<tool_response>` wrapping and the split at `</think>` are as it would find them; a template that decides by
anything else within a content (its length, a word in it) decides wrongly.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Protocol

from jinja2 import Template, TemplateError, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runtime.errors import CheckpointError

Role = Literal["system", "user", "assistant", "tool"]

END = "<|role_end|>"
THINK, END_THINK = "<think>", "</think>"
TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>\n'
)


@dataclass(frozen=True)
class ToolCall:
    """A function the model called. Arguments given as a string are passed on verbatim."""

    name: str
    arguments: str | Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. Only assistant and tool turns may have no content."""

    role: Role
    content: str | None = field(default=None, repr=False)
    reasoning_content: str | None = field(default=None, repr=False)
    tool_calls: tuple[ToolCall, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.role not in ("system", "user", "assistant", "tool"):
            raise ValueError("a message's role is none of system, user, assistant, tool")
        if self.role in ("system", "user") and not isinstance(self.content, str):
            raise ValueError(f"a {self.role} message has no text; give it content, if only an empty one")

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else ""

    def is_question(self) -> bool:
        """Whether a person asked this: a user turn that isn't a tool's answer in disguise."""
        return self.role == "user" and not _is_tool_response(self.text)


@dataclass(frozen=True)
class Segment:
    """A run of prompt text that is tokenised by itself: special tokens count only in trusted ones."""

    text: str = field(repr=False)
    trusted: bool


class ChatTemplate(Protocol):
    """How a model wants a conversation written down."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str:
        """The template in Jinja."""
        ...

    def segments(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[Segment]: ...


def split_reasoning(message: Message) -> tuple[str, str]:
    """An assistant turn's (reasoning, content): given apart, or cut at the <think> tags in its text."""
    text, reasoning = message.text, message.reasoning_content
    if reasoning is None and END_THINK in text:
        before, _, text = text.rpartition(END_THINK)
        reasoning = before.split(END_THINK)[0].rpartition(THINK)[2]
    return (reasoning or "").strip("\n"), text.lstrip("\n")


def to_json(value: Any, **options: Any) -> str:
    """JSON as templates write it: non-ASCII kept, nothing escaped for HTML, key order kept."""
    return json.dumps(value, ensure_ascii=options.pop("ensure_ascii", False), **options)


def text_of(segments: Sequence[Segment]) -> str:
    return "".join(segment.text for segment in segments)


class LingTemplate:
    """The Ling 2.0 chat template (non-thinking), for checkpoints that bring none that works."""

    name = "built-in"

    @property
    def source(self) -> str:
        """The same template in Jinja, as a checkpoint would ship it."""
        return (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")

    def segments(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[Segment]:
        parts = [*_opening(messages, tools or ())]
        last_question = max((i for i, message in enumerate(messages) if message.is_question()), default=-1)
        for i, message in enumerate(messages):
            if message.role == "user":
                parts += [_literal("<role>HUMAN</role>"), _content(message.text), _literal(END)]
            elif message.role == "system" and i > 0:
                parts += [_literal("<role>SYSTEM</role>"), _content(message.text), _literal(END)]
            elif message.role == "assistant":
                parts += _assistant(message, with_reasoning=i > last_question)
            elif message.role == "tool":
                parts += _observation(messages, i)
        if add_generation_prompt:
            parts.append(_literal("<role>ASSISTANT</role>"))
        return _merged(parts)


def _opening(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Segment]:
    parts = [_literal("<role>SYSTEM</role>")]
    if messages and messages[0].role == "system":
        parts += [_content(messages[0].text), _literal("\n")]
    if tools:
        parts.append(_literal(TOOLS_BEFORE))
        for tool in tools:
            parts += [_literal("\n"), _content(to_json(tool))]
        parts.append(_literal(TOOLS_AFTER))
    return [*parts, _literal("detailed thinking off" + END)]


def _assistant(message: Message, with_reasoning: bool) -> list[Segment]:
    reasoning, content = split_reasoning(message)
    parts = [_literal("<role>ASSISTANT</role>")]
    if reasoning and with_reasoning:
        parts += [_literal(f"\n{THINK}\n"), _content(reasoning), _literal(f"\n{END_THINK}\n\n")]
    parts.append(_content(content))
    for i, call in enumerate(message.tool_calls):
        arguments = call.arguments if isinstance(call.arguments, str) else to_json(call.arguments)
        parts.append(_literal(("\n" if i or content else "") + '<tool_call>\n{"name": "'))
        parts += [
            _content(call.name),
            _literal('", "arguments": '),
            _content(arguments),
            _literal("}\n</tool_call>"),
        ]
    return [*parts, _literal(END)]


def _observation(messages: Sequence[Message], i: int) -> list[Segment]:
    """One tool result; a run of them shares one header and one end."""
    first = i == 0 or messages[i - 1].role != "tool"
    last = i + 1 == len(messages) or messages[i + 1].role != "tool"
    return [
        _literal(("<role>OBSERVATION</role>" if first else "") + "\n<tool_response>\n"),
        _content(messages[i].text),
        _literal("\n</tool_response>" + (END if last else "")),
    ]


class JinjaTemplate:
    """A checkpoint's own template, rendered in a sandbox around placeholders.

    Raises CheckpointError when it cannot be compiled, or refuses a conversation.
    """

    name = "checkpoint"

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        self.source = source
        self._special_tokens = dict(special_tokens or {})
        try:
            self._template = _compiled(source)
        except TemplateError as error:
            raise CheckpointError(f"the chat template does not compile: {error}", _TEMPLATE_REMEDY) from error

    def segments(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[Segment]:
        shield = _Shield()
        try:
            rendered = self._template.render(
                messages=[self._shielded(message, shield) for message in messages],
                tools=shield.value(list(tools)) if tools else None,
                add_generation_prompt=add_generation_prompt,
                tojson=shield.to_json,
                **self._special_tokens,
            )
        except Exception as error:
            # A template is a program of others: it can fail in any way.
            raise CheckpointError(f"the chat template failed: {shield.redact(error)}", _TEMPLATE_REMEDY) from None
        return _merged(shield.split(rendered))

    def _shielded(self, message: Message, shield: _Shield) -> dict[str, Any]:
        """The message as templates know it, with every string of its contents replaced."""
        fields: dict[str, Any] = {"role": message.role, "content": shield.text(message.text)}
        if message.role == "assistant":
            fields.update(self._shielded_reply(message, shield))
        if message.tool_calls:
            calls = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
            fields["tool_calls"] = [{"type": "function", "function": shield.value(call)} for call in calls]
        return fields

    def _shielded_reply(self, message: Message, shield: _Shield) -> dict[str, Any]:
        """Reasoning and answer apart; still in one text for a template that only knows them so."""
        reasoning, content = split_reasoning(message)
        if not reasoning:
            return {"content": shield.text(content if END_THINK in message.text else message.text)}
        if "reasoning_content" in self.source:
            return {"content": shield.text(content), "reasoning_content": shield.text(reasoning)}
        if message.reasoning_content is not None:
            return {"content": shield.text(content)}
        return {"content": f"{THINK}\n{shield.text(reasoning)}\n{END_THINK}\n\n{shield.text(content)}"}


BUILT_IN = LingTemplate()
_TEMPLATE_REMEDY = "Use the chat template that came with the checkpoint, or remove it to get the built-in one."
_PROBE = (
    Message("system", "probe 1"),
    Message("user", "probe 2"),
    Message("assistant", "probe 3"),
    Message("user", "probe 4"),
)


def choose_template(source: str | None, special_tokens: Mapping[str, str]) -> tuple[ChatTemplate, str]:
    """The checkpoint's template if it renders a plain conversation, else ours; and why."""
    if source is None:
        return BUILT_IN, "the checkpoint has no chat template"
    try:
        template = JinjaTemplate(source, special_tokens)
        text = text_of(template.segments(_PROBE))
    except CheckpointError as error:
        return BUILT_IN, error.message
    if not all(message.text in text for message in _PROBE):
        return BUILT_IN, "the checkpoint's chat template drops messages"
    return template, "from the checkpoint"


class _Shield:
    """Stands random placeholders in for untrusted strings, and finds them again in rendered text."""

    def __init__(self) -> None:
        self._nonce = secrets.token_hex(16)
        self._originals: dict[str, str] = {}

    def text(self, original: str) -> str:
        """A placeholder for a message's text, with what templates look for at its ends left visible."""
        core = original.strip()
        if not core:
            return original
        before, after = original[: original.index(core)], original[original.index(core) + len(core) :]
        left, right = ("<tool_response>", "</tool_response>") if _is_tool_response(core) else ("", "")
        return before + self._placeholder(core, left, right) + after

    def value(self, value: Any) -> Any:
        """JSON data with a placeholder for every string in it, but for the keys that templates ask for."""
        if isinstance(value, str):
            return self._placeholder(value)
        if isinstance(value, Mapping):
            return {self._key(key): self.value(item) for key, item in value.items()}
        return [self.value(item) for item in value] if isinstance(value, list | tuple) else value

    def to_json(self, value: Any, **options: Any) -> str:
        """The template's tojson filter: the JSON of the original data, itself shielded."""
        return self._placeholder(to_json(self._restored(value), **options))

    def split(self, rendered: str) -> list[Segment]:
        if not self._originals:
            return [_literal(rendered)]
        longest_first = sorted(self._originals, key=len, reverse=True)
        pieces = re.split(f"({'|'.join(map(re.escape, longest_first))})", rendered)
        return [_content(self._originals[piece]) if piece in self._originals else _literal(piece) for piece in pieces]

    def redact(self, error: Exception) -> str:
        """What a template said when it failed; it only ever saw placeholders."""
        return f"{type(error).__name__}: {error}".replace(self._nonce, "...")

    def _placeholder(self, original: str, left: str = "", right: str = "") -> str:
        name = f"{left}{self._nonce}_{len(self._originals)}_{right}"
        self._originals[name] = original
        return name

    def _key(self, key: str) -> str:
        return key if key in KNOWN_KEYS else self._placeholder(key)

    def _restored(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._originals.get(value, value)
        if isinstance(value, Mapping):
            return {self._restored(key): self._restored(item) for key, item in value.items()}
        return [self._restored(item) for item in value] if isinstance(value, list | tuple) else value


# Keys that templates address by name in tools and calls; harmless as literals.
KNOWN_KEYS = frozenset(
    (
        "type",
        "function",
        "name",
        "description",
        "parameters",
        "arguments",
        "properties",
        "required",
        "enum",
        "items",
    )
)


def _literal(text: str) -> Segment:
    return Segment(text, trusted=True)


def _content(text: str) -> Segment:
    return Segment(text, trusted=False)


def _merged(parts: Sequence[Segment]) -> list[Segment]:
    """Neighbouring literals as one, empty segments gone; two contents never merge."""
    merged: list[Segment] = []
    for trusted, run in groupby((part for part in parts if part.text), key=lambda part: part.trusted):
        pieces = list(run)
        merged += [_literal(text_of(pieces))] if trusted else pieces
    return merged


def _is_tool_response(text: str) -> bool:
    return text.startswith("<tool_response>") and text.endswith("</tool_response>")


def _compiled(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(source)


@pass_context
def _tojson(context: Context, value: Any, **options: Any) -> str:
    """The filter: it knows the placeholders of one rendering by that rendering's own variable."""
    return str(context.resolve("tojson")(value, **options))


def _refuse(message: str) -> None:
    raise TemplateError(message)
