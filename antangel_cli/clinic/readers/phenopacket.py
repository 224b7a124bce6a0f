"""GA4GH Phenopacket v2 as JSON: one individual; what is `excluded` is absent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.readers.intake import Intake
from antangel_cli.clinic.readers.parts import Found, Part, Remark, assemble
from antangel_cli.clinic.readers.times import age_between, instant

_SEX = {"FEMALE": "female", "MALE": "male", 1: "female", 2: "male"}
_DURATION = re.compile(r"P(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?(?:T.*)?")
_UNREAD = ("biosamples", "interpretations", "files")
_HUMAN = "NCBITaxon:9606"


def is_phenopacket(document: dict[str, Any]) -> bool:
    """Whether a document has the shape of a Phenopacket, a Family or a Cohort."""
    keys = {_camel(key) for key in document}
    one = "subject" in keys and bool(keys & {"phenotypicFeatures", "metaData"})
    return one or ("metaData" in keys and bool(keys & {"phenotypicFeatures", "proband", "members"}))


def read_phenopacket(intake: Intake, case_id: str) -> Case:
    """Read one Phenopacket. Raises InputError for families, cohorts, version 1 and other species."""
    packet = _camel_keys(intake.document)
    if not isinstance(packet, dict) or not is_phenopacket(packet):
        raise InputError("This is no Phenopacket.", "It needs subject, phenotypicFeatures or metaData.")
    _require_one_human(packet)
    return assemble(case_id, [*_subject(packet), *_entries(packet), *_dropped(packet)])


def _camel(key: str) -> str:
    """protobuf's JSON may also carry the names of the schema: `phenotypic_features`."""
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), key)


def _camel_keys(value: Any) -> Any:
    if isinstance(value, dict):
        result = {_camel(key): _camel_keys(item) for key, item in value.items()}
        if len(result) != len(value):
            raise InputError("A field is there in two spellings.", "Keep one of the two.")
        return result
    return [_camel_keys(item) for item in value] if isinstance(value, list) else value


def _require_one_human(packet: dict[str, Any]) -> None:
    if "proband" in packet or "members" in packet:
        raise InputError("This holds a family or a cohort.", "Give one individual's Phenopacket at a time.")
    features = _rows(packet.get("phenotypicFeatures"))
    version = str(_object(packet.get("metaData")).get("phenopacketSchemaVersion", "2"))
    if version.startswith("1") or any("negated" in feature for _, feature in features):
        raise InputError("This is a version 1 Phenopacket.", "Convert it to version 2, where negated is excluded.")
    species = _object(_object(packet.get("subject")).get("taxonomy")).get("id")
    if isinstance(species, str) and species.strip() not in ("", _HUMAN):
        raise InputError("The subject is not human.", "Only cases of people are read.", "subject.taxonomy")


def _subject(packet: dict[str, Any]) -> Iterator[Found]:
    subject = _object(packet.get("subject"))
    seen = _object(subject.get("timeAtLastEncounter"))
    age = _age_of(seen) or age_between(_date(subject.get("dateOfBirth")), instant(_date(seen.get("timestamp"))))
    yield Part("patient", {"age": age}, "subject") if age else Remark("age_unknown")
    sex = subject.get("sex")
    if isinstance(sex, str | int) and sex in _SEX:
        yield Part("patient", {"sex_at_birth": _SEX[sex]}, "subject")
    if _object(subject.get("vitalStatus")).get("status") in ("DECEASED", 2):
        yield Remark("deceased")
    yield from (Remark("identifiers_dropped", key) for key in ("id", "alternateIds", "dateOfBirth") if subject.get(key))


def _entries(packet: dict[str, Any]) -> Iterator[Found]:
    for name, read in (
        ("phenotypicFeatures", _feature),
        ("diseases", _disease),
        ("measurements", _measurements),
        ("medicalActions", _action),
    ):
        for index, row in _rows(packet.get(name)):
            found: list[Found] = list(read(row, f"{name}[{index}]"))
            yield from found or [Remark("without_content", name)]


def _dropped(packet: dict[str, Any]) -> Iterator[Found]:
    for name in _UNREAD:
        yield from (Remark("resources_unread", name) for _ in _rows(packet.get(name)))
    for name in ("createdBy", "submittedBy"):
        if _object(packet.get("metaData")).get(name):
            yield Remark("identifiers_dropped", name)


def _feature(row: dict[str, Any], path: str) -> Iterator[Part]:
    text, code = _term(row.get("type"))
    if not text:
        return
    more = [label for _, item in _rows(row.get("modifiers")) if (label := _term(item)[0])]
    status = "absent" if row.get("excluded") is True else "present"
    content = {"text": ", ".join([text, *more]), "status": status, "code": code}
    if row.get("resolution") and status == "present":
        yield Part("history", {**content, "text": f"{content['text']} (resolved)"}, path)
        return
    severity = _term(row.get("severity"))[0]
    yield Part("findings", {**content, "onset": _time(row.get("onset")), "severity": severity}, path)


def _disease(row: dict[str, Any], path: str) -> Iterator[Part]:
    text, code = _term(row.get("term"))
    if text:
        onset = _time(row.get("onset"))
        shown = f"{text} (resolved)" if row.get("resolution") else f"{text} (onset {onset})" if onset else text
        yield Part(
            "history",
            {"text": shown, "status": "absent" if row.get("excluded") is True else "present", "code": code},
            path,
        )


def _measurements(row: dict[str, Any], path: str) -> Iterator[Part]:
    name, code = _term(row.get("assay"))
    value, time = _object(row.get("value")), _date(_object(row.get("timeObserved")).get("timestamp"))
    if name and value:
        yield from _value(name, code, value, time, path)
    for index, item in _rows(_object(row.get("complexValue")).get("typedQuantities")):
        inner, inner_code = _term(item.get("type"))
        if inner:
            yield from _value(inner, inner_code, item, time, f"{path}.complexValue.typedQuantities[{index}]")


def _value(name: str, code: str | None, value: dict[str, Any], time: str | None, path: str) -> Iterator[Part]:
    quantity = _object(value.get("quantity"))
    number, word = _number(quantity.get("value")), _term(value.get("ontologyClass"))[0]
    # protobuf's JSON leaves out a value of 0.
    number = 0.0 if quantity.get("unit") and "value" not in quantity else number
    if number is None and word is None:
        return
    limits = _object(quantity.get("referenceRange"))
    content = {"name": name, "value": word if number is None else number, "unit": _unit(quantity.get("unit"))}
    ends = {"ref_low": _number(limits.get("low")), "ref_high": _number(limits.get("high"))}
    yield Part("labs", {**content, **ends, "time": time, "code": code}, path)


def _unit(term: Any) -> str | None:
    """A UCUM unit: by its code, `UCUM:mg/dL`, else by its label."""
    label, code = _term(term)
    return code.removeprefix("UCUM:") if code and code.startswith("UCUM:") else label


def _action(row: dict[str, Any], path: str) -> Iterator[Part]:
    text, code = _term(_object(row.get("procedure")).get("code"))
    if text:
        yield Part("procedures", {"text": text, "code": code}, path)
    treatment = _object(row.get("treatment"))
    drug, drug_code = _term(treatment.get("agent"))
    if drug:
        route = _term(treatment.get("routeOfAdministration"))[0]
        ended = bool(row.get("treatmentTerminationReason"))
        status = "stopped" if ended else "unknown"
        yield Part("medications", {"text": drug, "route": route, "status": status, "code": drug_code}, path)
    therapy = _term(_object(row.get("radiationTherapy")).get("modality"))[0]
    if therapy:
        yield Part("procedures", {"text": f"radiation therapy: {therapy}"}, path)


def _age_of(time: Any) -> dict[str, Any] | None:
    """The age in a TimeElement, in years, or months under two years; days where it is less than a month."""
    found = _DURATION.fullmatch(str(_object(_object(time).get("age")).get("iso8601duration", "")))
    if not found or not any(found.groups()):
        return None
    years, months, weeks, days = (int(group or 0) for group in found.groups())
    months += years * 12
    if months >= 24:
        return {"value": float(months // 12), "unit": "a"}
    return {"value": float(months), "unit": "mo"} if months else {"value": float(weeks * 7 + days), "unit": "d"}


def _time(time: Any) -> str | None:
    """When something began, in words: an age, a named period of life, or a date."""
    age = _age_of(time)
    if age:
        unit = {"a": "years", "mo": "months", "d": "days"}[age["unit"]]
        return f"at {age['value']:g} {unit}"
    date = _date(_object(time).get("timestamp")) or _date(_object(_object(time).get("interval")).get("start"))
    named = _term(_object(time).get("ontologyClass"))[0]
    return named or (date[:10] if date else None)


def _term(value: Any) -> tuple[str | None, str | None]:
    """Label and id of an OntologyClass; the id stands in for a missing label."""
    row = _object(value)
    label, code = _word(row.get("label")), _word(row.get("id"))
    return label or code, code


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _rows(value: Any) -> list[tuple[int, dict[str, Any]]]:
    return [(i, row) for i, row in enumerate(value) if isinstance(row, dict)] if isinstance(value, list) else []


def _word(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _date(value: Any) -> str | None:
    return value if isinstance(value, str) and instant(value) else None
