"""The keys of a case: which are known where, which identify a patient, and which a slip was meant to be."""

from __future__ import annotations

import re
from typing import Any, get_args

from pydantic import BaseModel

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.rules import load_rules

IDENTIFIERS = frozenset(load_rules("identifiers")["keys"])

SHORTEST_PREFIX = 3
_MEANT = {
    "age_years": "age",
    "allergen": "substance",
    "antecedents": "history",
    "cc": "chief_complaint",
    "complaint": "chief_complaint",
    "date": "time",
    "description": "narrative",
    "dosage": "dose",
    "drugs": "medications",
    "examination": "findings",
    "family_history": "family",
    "gender": "sex_at_birth",
    "hpi": "narrative",
    "lang": "language",
    "laboratory": "labs",
    "meds": "medications",
    "nka": "no_known_allergies",
    "nkda": "no_known_allergies",
    "past_history": "history",
    "past_medical_history": "history",
    "physical_exam": "findings",
    "pmh": "history",
    "pregnant": "pregnancy",
    "presenting_complaint": "chief_complaint",
    "radiology": "imaging",
    "result": "value",
    "results": "labs",
    "signs": "findings",
    "social_history": "social",
    "surgery": "procedures",
    "symptoms": "findings",
    "text": "narrative",
    "unit_of_measure": "unit",
    "vital_signs": "vitals",
    "年龄": "age",
    "性别": "sex_at_birth",
    "主诉": "chief_complaint",
    "现病史": "narrative",
    "既往史": "history",
    "过敏史": "allergies",
    "用药": "medications",
    "体征": "vitals",
    "化验": "labs",
}
"""Keys that people write, and the key of a case that each stands for."""


def folded_key(key: str) -> str:
    """A key in lower case with words joined by underscores: `birthDate` and `Birth-Date` are `birth_date`."""
    return re.sub(r"[\s.-]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key.strip())).lower()


def is_measurement_name(place: tuple[str | int, ...], key: str) -> bool:
    """Whether a key `name` names a measurement or report, and so no person."""
    return bool(place) and key == "name" and place[0] in ("vitals", "labs", "imaging", "notes")


def keys_at(place: tuple[str | int, ...]) -> list[str]:
    """The keys known at a place of a case."""
    model: type[BaseModel] = Case
    for part in place:
        field = next((f for n, f in model.model_fields.items() if part in (n, f.alias)), None)
        inner = _model_in(field.annotation) if field else None
        model = inner or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for model in map(_model_in, get_args(annotation)) if model), None)


def nearest(key: str, known: list[str], within: int = 2) -> str | None:
    """The known key that `key` is at most `within` edits and half its length away from; else None."""
    if len(key) > 40:
        return None
    distance, closest = min((edits(key.lower(), other), other) for other in known)
    return closest if distance <= min(within, len(closest) // 2) else None


def meant(key: str, place: tuple[str | int, ...]) -> tuple[str, str] | None:
    """A key that is written for a known one, and the place of that: a slip, a common name, or the beginning of it.

    Of a case itself, what belongs to the patient is looked for there too. None for all else, which may be a patient's
    words: what is returned is in our own tables, or a slip of what is.
    """
    known = keys_at(place)
    closest = nearest(key, known)
    if closest:
        return key, closest
    folded = folded_key(key)
    named = _named(folded, known)
    if named is None and not place:
        inside = keys_at(("patient",))
        within = folded if folded in inside else _named(folded, inside)
        named = f"patient.{within}" if within else None
    return (folded, named) if named else None


def _named(folded: str, known: list[str]) -> str | None:
    if _MEANT.get(folded) in known:
        return _MEANT[folded]
    begun = (name for name in known if len(folded) >= SHORTEST_PREFIX and name.startswith(folded))
    return next(begun, None)


def edits(a: str, b: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]
