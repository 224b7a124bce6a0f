"""Free text from a model: one reply to a conversation, with its own numbers. Used by chat and ask."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from antangel_cli.clinic.model import Finish, Model, Sampling, Task, Turn
from antangel_cli.errors import RejectedError
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal


@dataclass(frozen=True)
class Generated:
    """A reply: its text, how it ended, and what it took; `reused_tokens` of its prompt were not computed again."""

    text: str = field(repr=False)
    finish: Finish
    tokens: int
    prompt_tokens: int
    ttft_s: float | None
    seconds: float
    reused_tokens: int | None = None

    @property
    def rate(self) -> float | None:
        """Tokens per second after the first."""
        decoding = self.seconds - (self.ttft_s or 0)
        return (self.tokens - 1) / decoding if self.tokens > 1 and decoding > 0 else None


class DoseFilter:
    """Passes a reply on a line at a time, as `shown` makes each: a dose may come in several pieces."""

    def __init__(self, on_text: Callable[[str], None], shown: Callable[[str], str]) -> None:
        self._on_text = on_text
        self._shown = shown
        self._line = ""

    def feed(self, text: str) -> None:
        """Take a piece; pass on the lines it completes."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._on_text(f"{self._shown(line)}\n")

    def finish(self) -> None:
        """Pass the last line on."""
        if self._line:
            self._on_text(self._shown(self._line))
        self._line = ""


def stream(
    model: Model,
    turns: Sequence[Turn],
    settings: Settings,
    sampling: Sampling,
    terminal: Terminal,
    shown: Callable[[str], str],
    stop: Callable[[], bool] = lambda: False,
) -> Generated:
    """Generate a reply and print it as it comes, each line as `shown` makes it; for JSON the caller does."""
    reply = terminal.reply()
    lines = DoseFilter(_ignore if settings.json else reply.feed, shown)
    answer = generate(model, turns, settings, sampling, lines.feed, stop)
    lines.finish()
    reply.finish()
    return answer


def _ignore(text: str) -> None:
    """Nothing is printed yet."""


def sampling_of(settings: Settings, seed: int | None = None) -> Sampling:
    """How free text is sampled: with this seed, else that of the settings, else 0."""
    chosen = seed if seed is not None else settings.seed
    return Sampling(settings.temperature, settings.top_p, settings.top_k, seed=chosen or 0)


def generate(
    model: Model,
    turns: Sequence[Turn],
    settings: Settings,
    sampling: Sampling,
    on_text: Callable[[str], None],
    stopped: Callable[[], bool] = lambda: False,
) -> Generated:
    """Stream one reply; `stopped` is asked between tokens. Raises RejectedError when the context is full."""
    prompt_tokens = model.count(turns)
    room = _room(model, prompt_tokens)
    before = _reused(model)
    started = time.monotonic()
    task = model.submit(Task(tuple(turns), sampling, min(settings.max_tokens, room), timeout_s=settings.timeout))
    text, tokens, first = "", 0, None
    finish: Finish | None = None
    while finish is None:
        for piece in model.step():
            if piece.task != task:
                continue
            tokens += piece.tokens
            first = first or (time.monotonic() - started if piece.tokens else None)
            text += piece.text
            finish = piece.finish
            on_text(piece.text)
        if finish is None and stopped():
            model.abort(task)
            finish = "abort"
    seconds, after = time.monotonic() - started, _reused(model)
    reused = after - before if before is not None and after is not None else None
    return Generated(text, finish, tokens, prompt_tokens, first, seconds, reused)


def _reused(model: Model) -> int | None:
    """Tokens of prompts so far that were not computed again; None where the model does not count them."""
    count = model.stats().get("shared_tokens")
    return None if count is None else int(count)


def _room(model: Model, prompt_tokens: int) -> int:
    if prompt_tokens < model.context:
        return model.context - prompt_tokens
    raise RejectedError(
        f"The context is full: {prompt_tokens} tokens, and {model.context} fit.",
        "Shorten it; in chat, /undo takes the last turn back and /clear begins anew.",
        code="too_long",
        stage="prompt",
    )
