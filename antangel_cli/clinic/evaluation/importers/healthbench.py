"""HealthBench, JSON lines: `prompt_id`, `prompt` [{role, content}], `rubrics` [{criterion, points, tags}].

Form opened in openai/simple-evals, healthbench_eval.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from antangel_cli.clinic.evaluation.importers.entries import case_of, objects, text, unlike


def read_healthbench(lines: Iterable[str], beside: Callable[[str], str]) -> Iterator[dict[str, Any] | None]:
    """A case for each conversation: what the user wrote, all turns. What the assistant said is no fact."""
    del beside
    for number, entry in objects(lines):
        prompt, rubrics = entry.get("prompt"), entry.get("rubrics")
        if not isinstance(prompt, list) or not isinstance(rubrics, list):
            raise unlike(number)
        said = [text(turn.get("content"), number) for turn in prompt if _of_user(turn, number)]
        gold = {"rubrics": rubrics}
        yield case_of(entry.get("prompt_id"), number, "\n\n".join(said), gold) if said else None


def _of_user(turn: Any, number: int) -> bool:
    if not isinstance(turn, dict):
        raise unlike(number)
    return turn.get("role") == "user"
