"""The small set that `make check` evaluates: `python -m nano.eval_set` writes examples/eval-small.jsonl.

The six example cases with their gold, and held-out cases of the demonstration model's world, whose gold is the
condition that each was drawn from. What a condition must not be missed for is the world's own word.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nano.corpus import diagnose_example
from nano.world import Condition, World, load_world

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FILE = EXAMPLES / "eval-small.jsonl"
DRAWN = 3
"""Held-out cases in each language."""

EXAMPLE_GOLD = {
    "appendicitis-zh": "acute_appendicitis",
    "barking-cough": "croup",
    "calf-swelling": "deep_vein_thrombosis",
    "chest-pain": "acute_myocardial_infarction",
    "fever-headache": "bacterial_meningitis",
    "ketoacidosis-zh": "diabetic_ketoacidosis",
}
"""The condition that each example was written to show."""


def gold(condition: Condition) -> dict[str, Any]:
    """A condition of the world as `gold`."""
    (name, other), (synonyms, others) = condition.name, condition.synonyms
    named = {"name": name, "synonyms": [other, *synonyms, *others], "codes": [condition.icd10]}
    return {
        "diagnosis": [named],
        "cant_miss": [named] if condition.cant_miss else [],
        "urgency": condition.urgency,
    }


def cases(world: World) -> Iterator[dict[str, Any]]:
    """The cases of the set, in a fixed order."""
    for name, condition in EXAMPLE_GOLD.items():
        content = json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))
        yield {**content, "gold": gold(world.conditions[condition])}
    for zh in (False, True):
        for seed in range(DRAWN):
            example = diagnose_example(world, seed, zh, held_out=True)
            assert example.case is not None
            assert example.patient is not None
            content = example.case.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            about = {"id": f"drawn-{'zh' if zh else 'en'}-{seed}", "gold": gold(example.patient.condition)}
            yield {**content, **about}


def main() -> None:
    """Write the set."""
    lines = [json.dumps(case, ensure_ascii=False) for case in cases(load_world())]
    FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
