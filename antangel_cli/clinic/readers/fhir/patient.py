"""Patient: age at the encounter and sex; everything that identifies is dropped, and counted elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from antangel_cli.clinic.readers.fhir.bundle import Record, Resource
from antangel_cli.clinic.readers.fhir.values import codes_of, entries, words
from antangel_cli.clinic.readers.parts import Found, Part, Remark
from antangel_cli.clinic.readers.times import age_between

_BIRTH_SEX = {"F": "female", "M": "male", "female": "female", "male": "male"}


def read_patient(resource: Resource, record: Record) -> Iterator[Found]:
    """Age, sex, and whether the patient is alive."""
    birth = words(resource.content.get("birthDate"))
    age = age_between(birth, record.now)
    if age is None:
        yield Remark("age_unknown")
    else:
        yield Part("patient", {"age": age}, resource.path)
        if len(birth or "") < 10:
            yield Remark("age_approximate")
    yield from _sex(resource)
    if resource.content.get("deceasedBoolean") is True or words(resource.content.get("deceasedDateTime")):
        yield Remark("deceased")


def _sex(resource: Resource) -> Iterator[Found]:
    recorded = next((sex for sex in map(_birth_sex, entries(resource.content.get("extension"))) if sex), None)
    gender = resource.content.get("gender")
    sex = recorded or (gender if gender in ("female", "male") else None)
    if sex:
        yield Part("patient", {"sex_at_birth": sex}, resource.path)
    if sex and not recorded:
        yield Remark("sex_from_gender")


def _birth_sex(extension: dict[str, Any]) -> str | None:
    if not str(extension.get("url")).lower().endswith(("us-core-birthsex", "individual-recordedsexorgender-birth")):
        return None
    codes = codes_of(extension.get("valueCode")) | codes_of(extension.get("valueCodeableConcept"))
    return next((_BIRTH_SEX[code] for code in codes if code in _BIRTH_SEX), None)


def identifying_words(patient: Resource | None) -> set[str]:
    """The patient's own names and numbers, to be taken out of free text."""
    if patient is None:
        return set()
    names = [word for row in entries(patient.content.get("name")) for word in _name_words(row)]
    numbers = [row.get("value") for key in ("identifier", "telecom") for row in entries(patient.content.get(key))]
    lines = [line for row in entries(patient.content.get("address")) for line in _list(row.get("line"))]
    return {word for word in (words(value) for value in (*names, *numbers, *lines)) if word and len(word) > 1}


def _name_words(name: dict[str, Any]) -> Iterator[Any]:
    yield from (name.get("family"), name.get("text"))
    yield from _list(name.get("given"))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
