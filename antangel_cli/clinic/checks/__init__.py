"""Checks: what the tool itself finds in a case, before and beside any model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.checks.consistency import contradictions
from antangel_cli.clinic.checks.drugs.conflicts import medication_conflicts
from antangel_cli.clinic.checks.injection import injection_suspected
from antangel_cli.clinic.checks.news2 import Score, moment, news2, unread_words
from antangel_cli.clinic.checks.paediatric import Banded, abnormal_for_age, paediatric
from antangel_cli.clinic.checks.plausibility import is_possible, set_aside, usable_facts, warnings
from antangel_cli.clinic.checks.red_flags import Fired, red_flags, red_flags_in_text
from antangel_cli.clinic.checks.text_vitals import vitals_in_text
from antangel_cli.clinic.checks.units import Measured, measure
from antangel_cli.clinic.checks.urgency import highest
from antangel_cli.clinic.checks.wording import NOT_RUN, REASONS, warning_message
from antangel_cli.clinic.facts import Fact, facts
from antangel_cli.clinic.privacy import identifiers_in
from antangel_cli.clinic.rules import rules_provenance

__all__ = ["Checks", "facts_to_use", "red_flags_in_text", "run_checks"]


@dataclass(frozen=True)
class Checks:
    """Everything the tool found; `to_json()` is what `antangel.ddx/1` carries under `checks`."""

    input_warnings: tuple[dict[str, Any], ...] = field(repr=False)
    unit_conversions: tuple[dict[str, Any], ...] = field(repr=False)
    set_aside: tuple[dict[str, Any], ...] = field(repr=False)
    implausible_accepted: bool
    news2: Score | None
    paediatric: Banded | None
    red_flags: tuple[Fired, ...]
    allergy_conflicts: tuple[dict[str, Any], ...] = field(repr=False)
    pregnancy_conflicts: tuple[dict[str, Any], ...] = field(repr=False)
    injection_suspected: tuple[dict[str, Any], ...]
    urgency_floor: str | None
    not_run: tuple[dict[str, str], ...]
    chinese: bool

    @property
    def degraded(self) -> tuple[str, ...]:
        """Why a result that rests on this case is degraded."""
        return ("implausible_set_aside",) if self.set_aside and not self.implausible_accepted else ()

    def to_json(self) -> dict[str, Any]:
        """As results carry it; null is not checked, and `not_run` says why."""
        return {
            "input_warnings": list(self.input_warnings),
            "unit_conversions": list(self.unit_conversions),
            "set_aside": [] if self.implausible_accepted else list(self.set_aside),
            "implausible_accepted": list(self.set_aside) if self.implausible_accepted else [],
            "news2": self.news2.to_json() if self.news2 else None,
            "paediatric": self.paediatric.to_json() if self.paediatric else None,
            "rule_red_flags": [fired.to_json(self.chinese) for fired in self.red_flags],
            "rules": rules_provenance(),
            "allergy_conflicts": list(self.allergy_conflicts),
            "pregnancy_conflicts": list(self.pregnancy_conflicts),
            "injection_suspected": list(self.injection_suspected),
            "urgency_floor": self.urgency_floor,
            "not_run": list(self.not_run),
        }


_PLACES = {"fact_id": "path", "other_fact_id": "other"}


def facts_to_use(case: Case, accept_implausible: bool = False) -> tuple[Fact, ...]:
    """The facts a model is told: all, but for impossible measurements that are not accepted."""
    rows = facts(case)
    return rows if accept_implausible else usable_facts(rows, set_aside(measure(case).values))


def run_checks(case: Case, rows: Sequence[Fact], accept_implausible: bool = False) -> Checks:
    """Run every check; `rows` are the facts whose numbers the findings cite."""
    read = vitals_in_text(case, rows, measure(case))
    aside = set_aside(read.values)
    ids = {fact.path: fact.id for fact in rows}
    values = read.values if accept_implausible else tuple(filter(is_possible, read.values))
    score = news2(case, rows, values)
    child = paediatric(case, rows, values)
    scored = [found for found in (score, child) if isinstance(found, (Score, Banded))]
    fired = red_flags(case, rows, abnormal_for_age(case, values))
    allergy, pregnancy = medication_conflicts(case, rows)
    return Checks(
        input_warnings=_worded(_warnings(case, read), ids, case.chinese),
        unit_conversions=tuple(_without_code(conversion, ids) for conversion in read.conversions),
        set_aside=aside,
        implausible_accepted=accept_implausible,
        news2=score if isinstance(score, Score) else None,
        paediatric=child if isinstance(child, Banded) else None,
        red_flags=fired,
        allergy_conflicts=allergy,
        pregnancy_conflicts=pregnancy,
        injection_suspected=injection_suspected(rows, case.question),
        urgency_floor=highest([*(found.urgency for found in scored), *(hit.rule.urgency for hit in fired)]),
        not_run=tuple(_not_run(score, child, case.chinese)),
        chinese=case.chinese,
    )


def _warnings(case: Case, read: Measured) -> Iterator[dict[str, Any]]:
    yield from case._input_warnings
    yield from read.warnings
    yield from ({"code": "word_unread", "path": path} for path in unread_words(case))
    for part in ("vitals", "labs"):
        for i, m in enumerate(getattr(case, part)):
            if m.time is not None and moment(m.time) is None:
                yield {"code": "time_unclear", "path": f"{part}[{i}]"}
    yield from warnings(case, read)
    rows = facts(case)
    yield from contradictions(case, rows, read)
    yield from _identifiers(rows)


def _identifiers(rows: Sequence[Fact]) -> Iterator[dict[str, Any]]:
    """Which facts may identify the patient, and by what; never the words themselves."""
    for fact in rows:
        for kind in dict.fromkeys(found.kind for found in identifiers_in(fact.text)):
            yield {"code": "identifier_in_text", "path": fact.path, "kind": kind}


def _worded(found: Iterator[dict[str, Any]], ids: dict[str, str], chinese: bool) -> tuple[dict[str, Any], ...]:
    return tuple(_with_fact({**w, "message": warning_message(w, chinese)}, ids) for w in found)


def _with_fact(entry: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    """The entry with the facts of its `path`, and of the `other` that it stands against; `ids` are by path."""
    places = {key: entry[place] for key, place in _PLACES.items() if place in entry}
    # All fields of the patient are one fact.
    found = {key: ids.get("patient" if path.startswith("patient.") else path) for key, path in places.items()}
    return {**entry, **{key: fact_id for key, fact_id in found.items() if fact_id}}


def _without_code(conversion: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    return _with_fact({key: value for key, value in conversion.items() if key != "code"}, ids)


def _not_run(score: Score | str, child: Banded | str | None, chinese: bool) -> Iterator[dict[str, str]]:
    if isinstance(score, str):
        yield _entry("news2", score, chinese)
    if isinstance(child, str):
        yield _entry("paediatric", child, chinese)
    if score == "under_16":
        yield _entry("paediatric_score", "bands_only" if isinstance(child, Banded) else "not_built", chinese)
    if score == "pregnant":
        yield _entry("obstetric_score", "not_built", chinese)
    for check in ("lactation", "interactions", "organ_dosing"):
        yield _entry(check, "no_table", chinese)
    yield _entry("codes", "listed_only", chinese)


def _entry(check: str, reason: str, chinese: bool) -> dict[str, str]:
    return {
        "check": check,
        "reason": reason,
        "message": f"{NOT_RUN[check][chinese]}: {REASONS[reason][chinese]}",
    }
