"""How a model's context is shared out: the prompt whole, then reasoning and answer."""

from __future__ import annotations

from dataclasses import dataclass

from antangel_cli.clinic.errors import InputError

ANSWER_TOKENS = 4096
FEWEST_ANSWER_TOKENS = 768
"""An answer with three diagnoses does not fit in less."""
FORCED_TOKENS = 32
"""Room for what surrounds the reasoning."""


@dataclass(frozen=True)
class Budget:
    """Tokens of one try: the prompt's, and at most so many of reasoning and answer."""

    prompt: int
    reasoning: int
    answer: int


def plan_budget(prompt: int, context: int, reasoning_tokens: int) -> Budget:
    """Share `context` tokens out. Raises InputError with the counts when prompt and a short answer do not fit.

    A prompt is never cut.
    """
    left = context - prompt - FORCED_TOKENS
    if left < FEWEST_ANSWER_TOKENS:
        raise InputError(
            f"The case makes {prompt} tokens; with {FEWEST_ANSWER_TOKENS + FORCED_TOKENS} for an answer, "
            f"{prompt + FEWEST_ANSWER_TOKENS + FORCED_TOKENS} are needed and {context} fit.",
            f"Shorten it by {FEWEST_ANSWER_TOKENS - left} tokens, or raise --context if the model allows it.",
        )
    answer = min(ANSWER_TOKENS, max(FEWEST_ANSWER_TOKENS, left // 2, left - reasoning_tokens))
    return Budget(prompt, min(reasoning_tokens, left - answer), answer)
