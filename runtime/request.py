"""What the engine is asked for, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from runtime.sampling import SamplingParams

Finish = Literal["stop", "length", "abort", "timeout", "error"]

NO_TOKEN = -1


@dataclass(frozen=True)
class Stage:
    """One generation in a request.

    `prefix` is text of our own that is put before it, special tokens and all; it is neither sampled nor
    emitted. With a JSON Schema the output can be nothing else. The stage ends at a stop string (which is
    removed), when the schema is satisfied, at an end-of-turn token, or after `max_tokens`.
    """

    params: SamplingParams
    max_tokens: int
    prefix: str = field(default="", repr=False)
    schema: dict[str, Any] | None = field(default=None, repr=False)
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if not all(self.stop):
            raise ValueError("a stop string is empty; leave it out")


@dataclass(frozen=True)
class Request:
    """A prompt and the stages that follow it, one after another on the same KV cache."""

    prompt_ids: tuple[int, ...] = field(repr=False)
    stages: tuple[Stage, ...]
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ValueError("the prompt is empty; give at least one token")
        if not self.stages:
            raise ValueError("the request has no stage; give at least one")


@dataclass(slots=True)  # one a token: frozen ones take four times as long to make
class TokenEvent:
    """One token, or the end of a stage or request without one (token_id -1).

    `text` is what became certain with it: never half a character, nothing of a stop string, perhaps empty.
    `error` says what went wrong when `finish` is "error"; it holds nothing of the text.
    """

    sequence_id: int
    stage: int
    token_id: int = field(repr=False)
    text: str = field(repr=False)
    finish: Finish | None = None
    stage_finish: Finish | None = None
    error: str | None = None
