"""Plain text: the whole of it becomes the narrative."""

from __future__ import annotations

import re
from collections.abc import Iterator

from antangel_cli.clinic.case import SCHEMA_ID, Case
from antangel_cli.clinic.facts import patient_words
from antangel_cli.clinic.readers.demographics import demographics
from antangel_cli.clinic.readers.intake import Intake

_CHINESE = re.compile("[\u4e00-\u9fff\u3400-\u4dbf]")
_CHINESE_SHARE = 0.2


def read_prose(intake: Intake, case_id: str) -> Case:
    """The case that a text is, with a warning for each thing that was read of the patient."""
    case = prose_case(intake.text, case_id)
    case._input_warnings = tuple(_read_from_text(case))
    case._sources = {"patient": "narrative"} if case._input_warnings else {}
    return case


def prose_case(text: str, case_id: str) -> Case:
    """A case of free text alone, in the language it is written in; of the patient it has what the text states."""
    return Case.model_validate(
        {
            "schema": SCHEMA_ID,
            "id": case_id,
            "language": language_of(text),
            "narrative": text.strip() or None,
            "patient": demographics(text),
        }
    )


def _read_from_text(case: Case) -> Iterator[dict[str, str | int]]:
    """What is told of the patient, so that a wrong reading shows."""
    for name, value in patient_words(case.patient, case.chinese):
        yield {"code": "read_from_text", "path": "patient", "quantity": name, "value": value}


def language_of(text: str) -> str:
    """`zh` when at least a fifth of the letters are Chinese, else `en`."""
    letters = sum(map(str.isalpha, text))
    return "zh" if letters and len(_CHINESE.findall(text)) / letters >= _CHINESE_SHARE else "en"
