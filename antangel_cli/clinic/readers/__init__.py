"""Readers: bytes in one of the input formats -> Case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.readers.case_json import read_case_json
from antangel_cli.clinic.readers.fhir import is_lines, read_fhir
from antangel_cli.clinic.readers.intake import MOST_BYTES, MOST_FHIR_BYTES, Intake, take_in
from antangel_cli.clinic.readers.phenopacket import is_phenopacket, read_phenopacket
from antangel_cli.clinic.readers.prose import read_prose
from antangel_cli.clinic.readers.redact import redacted_case, without_identifying_fields
from antangel_cli.clinic.readers.tables import refuse_table

InputFormat = Literal["auto", "case", "fhir", "phenopacket", "text"]

READERS: dict[str, Callable[[Intake, str], Case]] = {
    "case": read_case_json,
    "fhir": read_fhir,
    "phenopacket": read_phenopacket,
    "text": read_prose,
}
"""Each format's reader: cleaned text and the id a case without one gets."""


def read_case(
    data: bytes, name: str | None, input_format: str = "auto", case_id: str = "case-1", redact: bool = False
) -> Case:
    """Read one case.

    `name` is the file's, for detection and the place of an error; `case_id` is for formats that have none, or whose
    own may identify. With `redact`, what identifies the patient is removed and counted where it would be refused.
    Raises InputError, which never repeats the input.
    """
    try:
        return _read(take_in(data), name, input_format, case_id, redact)
    except InputError as error:
        place = ": ".join(part for part in (name, error.place) if part) or None
        raise InputError(error.message, error.remedy, place) from None


def _read(intake: Intake, name: str | None, input_format: str, case_id: str, redact: bool) -> Case:
    format_ = detect(intake, name, input_format)
    intake.require_at_most(MOST_FHIR_BYTES if format_ == "fhir" else MOST_BYTES)
    removed = without_identifying_fields(intake) if redact and format_ == "case" else ()
    case = READERS[format_](intake, case_id)
    case._input_warnings = (*intake.warnings, *removed, *case._input_warnings)
    return redacted_case(case) if redact else case


def detect(intake: Intake, name: str | None, input_format: str = "auto") -> str:
    """The format of an input: a `.json` name or a first `{` or `[` means JSON, told apart by its keys; else text.

    Raises InputError for JSON that does not parse, which is never text, and for a table of patients.
    """
    if input_format in READERS:
        return input_format
    if input_format != "auto":
        raise InputError("The input format is not known.", f"Use one of auto, {', '.join(READERS)}.")
    json_name = name is not None and name.lower().endswith((".json", ".ndjson"))
    if not json_name and intake.text.lstrip()[:1] not in ("{", "["):
        refuse_table(intake.text, name)
        return "text"
    return "fhir" if is_lines(intake.text) else _kind_of(intake.document)


def _kind_of(document: Any) -> str:
    if not isinstance(document, dict) or "schema" in document:
        return "case"
    if "resourceType" in document:
        return "fhir"
    return "phenopacket" if is_phenopacket(document) else "case"
