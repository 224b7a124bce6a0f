"""A run over cases with gold: takes the records as they come, and reports what they amount to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.evaluation.bootstrap import LEVEL, RESAMPLES, figures
from antangel_cli.clinic.evaluation.compare import REPORT_SCHEMA, Outline, outline, top_names
from antangel_cli.clinic.evaluation.gold import Gold
from antangel_cli.clinic.evaluation.groups import BAND_NAMES, groups_of
from antangel_cli.clinic.evaluation.scoring import Part, Record, score
from antangel_cli.clinic.evaluation.stability import twins, unchanged


@dataclass(frozen=True)
class Item:
    """A case and what is known of it."""

    case: Case
    gold: Gold | None


@dataclass
class Scored:
    """What one case came to."""

    groups: dict[str, str]
    parts: dict[str, Part]
    names: list[str]


class Evaluation:
    """Items by id, their twins by an id of their own, and the scores of the records taken so far."""

    def __init__(self, items: Sequence[Item], stability: bool = False) -> None:
        self.items = {item.case.id: item for item in items}
        self._twins: dict[str, tuple[str, str]] = {}
        self._twin_cases = dict(self._make_twins()) if stability else {}
        self._answers: dict[str, list[str]] = {}
        self._scored: dict[str, Scored] = {}
        self._statuses: Counter[str] = Counter()
        self.outlines: dict[str, Outline] = {}
        self.unread = 0

    @property
    def twins(self) -> Iterator[Case]:
        """The twin cases, to be answered after the cases themselves."""
        return iter(self._twin_cases.values())

    def _make_twins(self) -> Iterator[tuple[str, Case]]:
        for number, (case_id, item) in enumerate(self.items.items()):
            for kind, twin in twins(item.case, item.gold, number):
                name = _unused(f"twin.{number}.{kind}", self.items)
                self._twins[name] = (case_id, kind)
                yield name, twin.model_copy(update={"id": name, "gold": None})

    def is_twin(self, case_id: str | None) -> bool:
        """Whether a record is a twin's: it is compared with its case's, and scored by nothing else."""
        return case_id in self._twins

    def take(self, record: Record) -> None:
        """Take the record of a case, of a twin, or of a line that is no case."""
        case_id = record["id"]
        if self.is_twin(case_id):
            self._answers[case_id] = top_names(record)
        elif case_id not in self.items or case_id in self._scored:
            self.unread += 1
        else:
            item = self.items[case_id]
            self._scored[case_id] = Scored(groups_of(item.case), score(record, item.gold), top_names(record))
            self.outlines[case_id] = outline(record)
            self._statuses[record["status"]] += 1

    def report(self) -> dict[str, Any]:
        """The report, `antangel.eval/1`; docs/evaluation.md says what each measure is."""
        self._compare_twins()
        scored = list(self._scored.values())
        return {
            "schema": REPORT_SCHEMA,
            "cases_scored": len(scored),
            "without_gold": sum(item.gold is None for item in self.items.values()),
            "unread": self.unread,
            "statuses": dict(sorted(self._statuses.items())),
            "intervals": {"method": "percentile bootstrap over cases", "level": LEVEL, "resamples": RESAMPLES},
            "measures": _json(figures([each.parts for each in scored])),
            "groups": {by: self._by_group(by) for by in ("age", "sex", "language")},
            "cases": [{**self.outlines[i], "scores": dict(each.parts)} for i, each in self._scored.items()],
        }

    def _compare_twins(self) -> None:
        for name, (case_id, kind) in self._twins.items():
            if case_id in self._scored and name in self._answers:
                scored = self._scored[case_id]
                scored.parts[f"{kind}_stability"] = unchanged(scored.names, self._answers[name])

    def _by_group(self, by: str) -> dict[str, Any]:
        groups: dict[str, list[dict[str, Part]]] = {}
        for each in self._scored.values():
            groups.setdefault(each.groups[by], []).append(each.parts)
        return {
            name: {"n": len(rows), "measures": _json(figures(rows))}
            for name, rows in sorted(groups.items(), key=_place)
        }


def _place(group: tuple[str, Any]) -> tuple[int, str]:
    """Ages from young to old, all else by name."""
    return BAND_NAMES.index(group[0]) if group[0] in BAND_NAMES else len(BAND_NAMES), group[0]


def _json(measures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: each.to_json() for name, each in measures.items()}


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    while name in taken:
        name += "."
    return name
