"""Contradictions in the words of a case: among its entries, and between its text and its fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from antangel_cli.clinic.case import Age, Case, Medication
from antangel_cli.clinic.checks.drugs.allergies import denied_in, stated_in
from antangel_cli.clinic.checks.drugs.names import drugs_in, resolve_allergen
from antangel_cli.clinic.checks.statements import asserted, statements
from antangel_cli.clinic.checks.text_folding import folded, folded_name
from antangel_cli.clinic.facts import Fact, sentences
from antangel_cli.clinic.rules import load_rules

Found = Iterator[dict[str, Any]]

_RULES = load_rules("consistency")
_DRUG_WORDS = load_rules("drugs/words")
_SAME: dict[str, str] = {folded_name(name): names[0] for names in _RULES["findings"]["same"] for name in names}

MOST_COURSES = 20
"""Active courses of one drug that a stopped one is compared with: bounded, for lists without end."""
MOST_READ = 200
"""Characters of a first sentence that are read for age and sex."""


def contradictions_in_words(case: Case, rows: Sequence[Fact]) -> Found:
    """Every contradiction that takes reading words; the warnings name fields and never the words."""
    for rule in _RULES_OF_WORDS:
        yield from rule(case, rows)


@cache
def _pattern(part: str, name: str) -> re.Pattern[str]:
    return re.compile(_RULES[part][name])


def _present_and_absent(case: Case, rows: Sequence[Fact]) -> Found:
    """The same finding present and absent, within one list: a past one may have gone."""
    for part in ("findings", "history", "social", "procedures"):
        seen: dict[str, tuple[str, bool]] = {}
        for i, entry in enumerate(getattr(case, part)):
            if entry.status == "unknown":
                continue
            path, (key, negated) = f"{part}[{i}]", _key(entry.text)
            absent = entry.status == "absent"
            if negated and absent:
                yield {"code": "negated_twice", "path": path}
                continue
            first, gone = seen.setdefault(key, (path, negated or absent))
            if gone != (negated or absent):
                yield {"code": "present_and_absent", "path": path, "other": first}


def _key(text: str) -> tuple[str, bool]:
    """What a finding is about, under one name, and whether its words negate it."""
    plain = folded(text).strip(" .,;:。，；：")
    rest = _pattern("findings", "negation").sub("", plain, count=1).strip()
    key = folded_name(rest or plain)
    return _SAME.get(key, key), bool(rest) and rest != plain


def _allergies(case: Case, rows: Sequence[Fact]) -> Found:
    """An allergy beside a statement that there are none; `no drug allergies` leaves those to food."""
    named = [(f"allergies[{i}]", a.substance) for i, a in enumerate(case.allergies) if not _is_none(a.substance)]
    others = [fact for fact in rows if fact.kind not in ("family", "allergy")]
    if case.no_known_allergies:
        told = [fact.path for fact in others if any(stated_in(fact.text, fact.id))]
        for path in [path for path, _ in named] + told:
            yield {"code": "allergies_contradict", "path": path}
        return
    denial = next((fact.path for fact in others if denied_in(fact.text)), None)
    for path, substance in named:
        if denial and resolve_allergen(substance):
            yield {"code": "allergies_contradict", "path": path, "other": denial}


def _is_none(substance: str) -> bool:
    return bool(re.fullmatch(_DRUG_WORDS["allergy"]["none"], folded(substance).strip(" .")))


def _medications(case: Case, rows: Sequence[Fact]) -> Found:
    """One drug active and stopped, where its dose and route do not tell two courses apart."""
    active: dict[frozenset[str], list[tuple[str, Medication]]] = {}
    for i, m in enumerate(case.medications):
        if m.status == "active":
            active.setdefault(_drug(m), []).append((f"medications[{i}]", m))
    for i, old in enumerate(case.medications):
        courses = active.get(_drug(old), [])[:MOST_COURSES] if old.status == "stopped" else []
        other = next((path for path, new in courses if _same_course(old, new)), None)
        if other:
            yield {"code": "medication_contradicts", "path": f"medications[{i}]", "other": other}


def _same_course(old: Medication, new: Medication) -> bool:
    return not (_differ(_dose(old), _dose(new)) or _differ(old.route, new.route))


def _drug(medication: Medication) -> frozenset[str]:
    known = frozenset(mention.drug.id for mention in drugs_in(medication.text))
    return known or frozenset([folded_name(medication.text)])


def _dose(medication: Medication) -> str:
    return " ".join(re.findall(r"\d+(?:\.\d+)?", folded(f"{medication.text} {medication.dose or ''}")))


def _differ(first: str | None, second: str | None) -> bool:
    return bool(first and second) and folded(first or "") != folded(second or "")


def _pregnancy_told(case: Case, rows: Sequence[Fact]) -> Found:
    """A pregnancy in the text, or a positive test, of a male, or of somebody of no such age."""
    age, male = case.patient.age, case.patient.sex_at_birth == "male"
    least, most = _RULES["pregnancy"]["ages"]
    code = "pregnancy_told_male" if male else "pregnancy_age" if age and age.years > most else None
    if code and not (age and age.years < least):
        for path in dict.fromkeys(_pregnancies(case, rows)):
            yield {"code": code, "path": path}


def _pregnancies(case: Case, rows: Sequence[Fact]) -> Iterator[str]:
    paths = {fact.id: fact.path for fact in rows if fact.kind != "patient"}
    patterns = (_DRUG_WORDS["pregnancy"]["stated"], _RULES["pregnancy"]["test_positive"])
    for sentence in statements(rows):
        told = any(asserted(sentence, pattern) for pattern in patterns)
        if told and not sentence.background and not _pattern("pregnancy", "others").search(sentence.text):
            yield paths[sentence.fact_id]
    for i, m in enumerate(case.labs):
        positive = _pattern("pregnancy", "positive").search(folded(str(m.value)).strip())
        if positive and _pattern("pregnancy", "test").search(folded(m.name)):
            yield f"labs[{i}]"


def _patient(case: Case, rows: Sequence[Fact]) -> Found:
    """Another age or sex in the first sentence of complaint or narrative than in the fields."""
    # The readers import the folding of the checks.
    from antangel_cli.clinic.readers.demographics import demographics

    for part in ("chief_complaint", "narrative"):
        told = demographics(next(sentences(getattr(case, part) or ""), "")[:MOST_READ])
        if case.patient.age and "age" in told and _ages_apart(case.patient.age, Age(**told["age"])):
            yield {"code": "age_differs", "path": f"{part}#0"}
        # A sex that only a pregnancy tells is left to the rule above.
        sex = None if "pregnancy" in told else told.get("sex_at_birth")
        if {case.patient.sex_at_birth, sex} == {"female", "male"}:
            yield {"code": "sex_differs", "path": f"{part}#0"}


def _ages_apart(first: Age, second: Age) -> bool:
    """Whether two ages differ by more than one and a half of the larger of their units."""
    unit = max(Age(value=1.0, unit=age.unit).years for age in (first, second))
    return abs(first.years - second.years) > 1.5 * unit


_RULES_OF_WORDS: tuple[Callable[[Case, Sequence[Fact]], Found], ...] = (
    _present_and_absent,
    _allergies,
    _medications,
    _pregnancy_told,
    _patient,
)
