"""What stands beneath a reply: how it ended, the checks, and a footer of numbers; and its record for JSON."""

from __future__ import annotations

from typing import Any

from antangel_cli.clinic.model import Model
from antangel_cli.conversation import Generated

SCHEMA = "antangel.reply/1"

FAILED = ("error", "timeout")
"""Ends of a reply that make a run without a terminal fail."""

ENDED = {
    "length": "The reply ends here: it reached --max-tokens, or the context is full.",
    "abort": "Stopped; what came is kept.",
    "timeout": "The reply ends here: its time ran out (--timeout).",
    "error": "The reply ends here: the generation failed.",
}


def record(text: str, answer: Generated, model: Model, checks: dict[str, Any], seed: int) -> dict[str, Any]:
    """The record of a reply; `text` is it as it may be shown."""
    status = "error" if answer.finish in FAILED else "demonstration" if model.demonstration else "ok"
    return {
        "schema": SCHEMA,
        "status": status,
        "text": text,
        "finish": answer.finish,
        "tokens": answer.tokens,
        "seed": seed,
        "checks": checks,
    }


def footer(answer: Generated, model: Model, seed: int) -> str:
    """Tokens, their rate, the time to the first, what was not computed again, and how full the context is."""
    rate = f"{answer.rate:.1f} tokens/s" if answer.rate else "- tokens/s"
    first = f"{answer.ttft_s:.2f} s" if answer.ttft_s is not None else "-"
    reused = f"{answer.reused_tokens} tokens reused, " if answer.reused_tokens is not None else ""
    demonstration = "DEMONSTRATION, " if model.demonstration else ""
    return (
        f"[{demonstration}{answer.tokens} tokens, {rate}, first after {first}, {reused}"
        f"context {answer.prompt_tokens + answer.tokens} of {model.context}, seed {seed}]"
    )
