"""`--redact`: fields that identify are removed, identifiers in free text replaced, and both counted.

Never called de-identification: what remains can still identify.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.privacy import without_identifiers
from antangel_cli.clinic.readers.intake import Intake
from antangel_cli.clinic.readers.keys import IDENTIFIERS, folded_key, is_measurement_name
from antangel_cli.clinic.readers.parts import Remark, warnings
from antangel_cli.clinic.readers.times import age_between, instant

_BIRTH = {"birth_date", "birthdate", "birthday", "date_of_birth", "dob", "出生日期", "生日"}
_TIMED = ("vitals", "labs", "imaging", "notes")
_KEPT = {"schema", "id", "language", "code", "time", "unit", "status", "sex_at_birth"}


def without_identifying_fields(intake: Intake) -> tuple[dict[str, str | int], ...]:
    """Take the fields that identify out of a case document, and say which; a birth date may first give the age."""
    if not isinstance(intake.document, dict):
        return ()
    removed: list[tuple[str, Any]] = []
    _take_out(intake.document, (), removed)
    _give_age(intake.document, [value for key, value in removed if key in _BIRTH])
    return warnings([Remark("identifiers_dropped", key) for key, _ in removed])


def _take_out(value: Any, place: tuple[str | int, ...], removed: list[tuple[str, Any]]) -> None:
    if isinstance(value, dict) and (not place or place[0] != "gold"):
        for key in [key for key in value if not key.startswith("x_")]:
            if folded_key(key) in IDENTIFIERS and not is_measurement_name(place, key):
                removed.append((folded_key(key), value.pop(key)))
            else:
                _take_out(value[key], (*place, key), removed)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _take_out(item, (*place, index), removed)


def _give_age(document: dict[str, Any], births: list[Any]) -> None:
    """The age at the newest time in the case, when a birth date was there and no age."""
    patient = document.setdefault("patient", {})
    rows = [row for name in _TIMED if isinstance(document.get(name), list) for row in document[name]]
    times = [instant(row.get("time")) for row in rows if isinstance(row, dict)]
    now = max((time for time in times if time), default=None)
    age = next((age for age in (age_between(birth, now) for birth in births if isinstance(birth, str)) if age), None)
    if age and isinstance(patient, dict):
        patient.setdefault("age", age)


def redacted_case(case: Case) -> Case:
    """The case with the identifiers in its texts replaced, and a warning that counts them by kind."""
    counts: Counter[str] = Counter()
    content = _redacted(case.model_dump(mode="json", by_alias=True), counts)
    result = Case.model_validate_json(json.dumps(content))
    result._input_warnings = (
        *case._input_warnings,
        *warnings([Remark("identifiers_removed", kind) for kind in counts.elements()]),
    )
    result._sources, result._subject = case._sources, None
    return result


def _redacted(value: Any, counts: Counter[str]) -> Any:
    if isinstance(value, str):
        text, found = without_identifiers(value)
        counts.update(found)
        return text
    if isinstance(value, list):
        return [_redacted(item, counts) for item in value]
    if isinstance(value, dict):
        return {key: item if key in _KEPT else _redacted(item, counts) for key, item in value.items()}
    return value
