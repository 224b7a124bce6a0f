"""MedQA, JSON lines: `question`, `options` {letter: text}, `answer` (the text), `answer_idx` (the letter).

Form opened in jind11/MedQA, README.md, and in EleutherAI/lm-evaluation-harness, lm_eval/tasks/medqa_usmle.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from antangel_cli.clinic.evaluation.importers.entries import case_of, choice, objects, text, unlike
from antangel_cli.clinic.readers.prose import language_of


def read_medqa(lines: Iterable[str], beside: Callable[[str], str]) -> Iterator[dict[str, Any] | None]:
    """A case for each question, its vignette and question whole; the answer's text is the diagnosis."""
    del beside
    for number, entry in objects(lines):
        question, answer = text(entry.get("question"), number), text(entry.get("answer"), number)
        options = entry.get("options")
        if not isinstance(options, dict) or answer not in options.values():
            raise unlike(number)
        asked = choice(map(str, options.values()), language_of(question) == "zh")
        yield case_of(None, number, question, {"diagnosis": answer}, question=asked)
