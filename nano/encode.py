"""Examples as token ids with loss weights, exactly as the runtime renders and forces them."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer

from antangel_cli.clinic.prompt import THINK_CLOSE, THINK_OPEN
from nano.corpus import Example

CANDIDATES = 3.0
"""How much more the line of candidates weighs: a few tokens in each example carry the decision."""


@dataclass(frozen=True)
class Encoded:
    """Token ids and, for each, the weight of the loss that predicts it (0 for what is sent or forced)."""

    ids: list[int]
    weights: list[float]


class Encoder:
    """Renders conversations with the family's template (reference, section 10), each segment tokenised apart."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def prompt(self, example: Example) -> list[int]:
        """Everything up to and including the assistant's role header."""
        segments = (
            "<role>SYSTEM</role>", example.system, "\ndetailed thinking off<|role_end|>",
            "<role>HUMAN</role>", example.user, "<|role_end|>", "<role>ASSISTANT</role>",
        )  # fmt: skip
        return [i for segment in segments for i in self._ids(segment)]

    def reply(self, example: Example) -> Encoded:
        """A plain reply, as for chat and ask."""
        return self._join((self.prompt(example), 0.0), (self._ids(example.reply + "<|role_end|>"), 1.0))

    def reasoning(self, example: Example, weight: float) -> Encoded:
        """The first stage of `diagnose` alone."""
        closed = (self._ids(THINK_CLOSE)[:-1], weight)
        return self._join((self.prompt(example) + self._ids(THINK_OPEN), 0.0), *self._thought(example, weight), closed)

    def diagnosis(self, example: Example, weight: float, think: bool = True) -> Encoded:
        """Both stages of `diagnose`, or the answer alone as with `--reasoning off`."""
        answer = (self._ids(example.answer + "<|role_end|>"), 1.0)
        if not think:
            return self._join((self.prompt(example), 0.0), answer)
        opened = (self.prompt(example) + self._ids(THINK_OPEN), 0.0)
        return self._join(opened, *self._thought(example, weight), (self._ids(THINK_CLOSE), 0.5), answer)

    def _thought(self, example: Example, weight: float) -> list[tuple[list[int], float]]:
        """The reasoning line by line; the first, which names the candidates, weighs more."""
        lines = example.reply.splitlines(keepends=True)
        return [(self._ids(line), weight * (CANDIDATES if i == 0 else 1.0)) for i, line in enumerate(lines)]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def _join(self, *parts: tuple[list[int], float]) -> Encoded:
        ids = [i for part, _ in parts for i in part]
        return Encoded(ids, [w for part, w in parts for _ in part])
