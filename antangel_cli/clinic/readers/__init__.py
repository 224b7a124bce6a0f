"""Readers: bytes in one of the input formats -> Case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.readers.case_json import read_case_json
from antangel_cli.clinic.readers.intake import Intake, take_in
from antangel_cli.clinic.readers.prose import read_prose

InputFormat = Literal["auto", "case", "text"]

READERS: dict[str, Callable[[Intake, str], Case]] = {"case": read_case_json, "text": read_prose}
"""Each format's reader: cleaned text and the id a case without one gets."""


def read_case(data: bytes, name: str | None, input_format: str = "auto", case_id: str = "case-1") -> Case:
    """Read one case.

    `name` is the file's, for detection and the place of an error; `case_id` is for plain text, that has none.
    Raises InputError, which never repeats the input.
    """
    try:
        intake = take_in(data)
        case = READERS[detect(intake.text, name, input_format)](intake, case_id)
    except InputError as error:
        place = ": ".join(part for part in (name, error.place) if part) or None
        raise InputError(error.message, error.remedy, place) from None
    case._input_warnings = intake.warnings
    return case


def detect(text: str, name: str | None, input_format: str = "auto") -> str:
    """The format of an input: a `.json` name or a first `{` or `[` means JSON, anything else is text."""
    if input_format in READERS:
        return input_format
    if input_format != "auto":
        raise InputError("The input format is not known.", f"Use one of auto, {', '.join(READERS)}.")
    json_name = name is not None and name.lower().endswith(".json")
    return "case" if json_name or text.lstrip()[:1] in ("{", "[") else "text"
