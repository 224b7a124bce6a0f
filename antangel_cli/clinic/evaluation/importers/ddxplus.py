"""DDXPlus: a CSV of patients, with release_conditions.json and release_evidences.json beside it.

Form opened in karishmagrana/NLP-Final-Project, README.md, which repeats the data set's own: columns AGE, SEX,
PATHOLOGY, EVIDENCES, INITIAL_EVIDENCE, DIFFERENTIAL_DIAGNOSIS; lists are written as Python writes them.
"""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from antangel_cli.clinic.case import SCHEMA_ID
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.evaluation.importers.entries import unlike

CONDITIONS, EVIDENCES = "release_conditions.json", "release_evidences.json"
_SEX = {"M": "male", "F": "female"}
_VALUE = "_@_"
_LONGEST_LIST = 100_000
_BROKEN = (KeyError, ValueError, TypeError, AttributeError, SyntaxError, RecursionError, MemoryError, csv.Error)

Table = Mapping[str, Mapping[str, Any]]


def read_ddxplus(lines: Iterable[str], beside: Callable[[str], str]) -> Iterator[dict[str, Any] | None]:
    """A case for each patient, with the disease and the differential it was made from. Raises InputError."""
    conditions, evidences = _table(beside(CONDITIONS), CONDITIONS), _table(beside(EVIDENCES), EVIDENCES)
    rows = csv.DictReader(lines)
    number = 1
    while True:
        number += 1
        try:
            row = next(rows, None)
            if row is None:
                return
            case = _case(row, number - 1, conditions, evidences)
        except _BROKEN:
            raise unlike(number) from None
        yield case


def _table(content: str, name: str) -> Table:
    try:
        table = json.loads(content)
    except (ValueError, RecursionError):
        table = None
    if isinstance(table, dict) and all(isinstance(entry, dict) for entry in table.values()):
        return table
    raise InputError(f"{name} has not the form of this data set.", "Give the file as it was published.")


def _case(row: Mapping[str, str], number: int, conditions: Table, evidences: Table) -> dict[str, Any]:
    stated = [_evidence(each, evidences) for each in _list(row["EVIDENCES"])]
    return {
        "schema": SCHEMA_ID,
        "id": f"ddxplus-{number}",
        "language": "en",
        "patient": {"age": {"value": float(row["AGE"])}, "sex_at_birth": _SEX[row["SEX"]]},
        "findings": [{"text": text} for text, past in stated if text and not past],
        "history": [{"text": text} for text, past in stated if text and past],
        "gold": {
            "diagnosis": _name(row["PATHOLOGY"], conditions),
            "differential": [_name(each, conditions) for each in _differential(row["DIFFERENTIAL_DIAGNOSIS"])],
        },
    }


def _differential(text: str) -> list[str]:
    """The diseases of a differential, the likeliest first."""
    return [name for name, _ in sorted(_list(text), key=lambda pair: -float(pair[1]))]


def _list(text: str) -> list[Any]:
    """A list as Python writes it: literals alone, nothing that runs."""
    if len(text) > _LONGEST_LIST:
        raise ValueError("too long")
    value = ast.literal_eval(text)
    if isinstance(value, list):
        return value
    raise ValueError("no list")


def _evidence(written: str, evidences: Table) -> tuple[str, bool]:
    """An evidence in words, empty where it says nothing, and whether it lies in the past."""
    name, _, value = written.partition(_VALUE)
    entry = evidences[name]
    past = bool(entry["is_antecedent"])
    if not value:
        return f"{entry['question_en']} Yes.", past
    if value == str(entry.get("default_value")):
        return "", past
    meaning = entry.get("value_meaning", {}).get(value, {}).get("en", value)
    return f"{entry['question_en']} {meaning}", past


def _name(condition: str, conditions: Table) -> dict[str, Any]:
    entry = conditions[condition]
    name = str(entry.get("cond-name-eng") or condition)
    others = [other for other in (condition, entry.get("cond-name-fr")) if other and other != name]
    code = str(entry.get("icd10-id") or "").upper()
    return {"name": name, "synonyms": list(dict.fromkeys(others)), "codes": [code] if code else []}
