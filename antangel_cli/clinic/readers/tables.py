"""Tables of patients (CSV, TSV): refused, for as plain text they would be one case of many people."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from itertools import islice

from antangel_cli.clinic.errors import InputError

TABLE_NAMES = (".csv", ".tsv", ".tab")
_DELIMITERS = ("\t", ",", ";", "|")
LEAST_COLUMNS = 3
MOST_ROWS = 200
"""Rows that are looked at: a table is one from its first lines on."""
LONGEST_HEADING = 40

_COLUMNS = """
id caseid patient patientid pid mrn name patientname firstname lastname visitid encounterid recordid subjectid
age ageyears sex gender dob birthdate dateofbirth date admissiondate weight height weightkg heightcm bmi
complaint chiefcomplaint cc symptom symptoms presentation narrative text note notes description history hpi pmh
diagnosis dx medications medication meds allergies allergy vitals labs findings question setting language
pulse hr heartrate bp sbp dbp systolic diastolic rr resprate respiratoryrate temp temperature spo2
编号 序号 病例号 病历号 患者 患者编号 姓名 年龄 性别 出生日期 日期 主诉 症状 现病史 既往史 病史 诊断 用药 过敏史
体重 身高 体温 脉搏 心率 呼吸 血压 收缩压 舒张压 血氧 备注
"""
_KNOWN = frozenset(_COLUMNS.split())
"""Names of columns, in lower case without spaces, signs and what is in brackets."""

_NUMBER = re.compile(r"[-+]?\d+(?:[.,/:-]\d+)*")
_SENTENCE = re.compile(r"[.:]\s|[!?。！？：，；]|\d\s+\w")


def refuse_table(text: str, name: str | None) -> None:
    """Refuse a text that is a table with a header, or whose file is named as one. Raises InputError."""
    named = name is not None and name.lower().endswith(TABLE_NAMES)
    if named or any(is_table(text, delimiter) for delimiter in _DELIMITERS):
        raise InputError(
            "This is a table, and would be read as one patient's text.",
            "Put each patient on a line of JSON (docs/inputs.md shows how), and run antangel batch on it. "
            "If it is all of one patient: --input-format text.",
        )


def is_table(text: str, delimiter: str) -> bool:
    """Whether lines have cells, the first one headings.

    That they are headings shows in two names of columns that are known, and most lines then have cells; or else in
    as many cells in every line, and a name that only a program writes, a column of numbers, or no comma between them.
    """
    first = next((line for line in text.splitlines() if line.strip()), "")
    if first.count(delimiter) < LEAST_COLUMNS - 1:
        return False
    header, *body = _rows(text, delimiter) or [[]]
    if not body or not _is_header(header):
        return False
    if sum(_folded(cell) in _KNOWN for cell in header) >= 2:
        return 2 * sum(len(row) >= LEAST_COLUMNS for row in body) >= len(body)
    alike = len(body) >= 2 and all(len(row) == len(header) for row in body)
    return alike and (delimiter in "\t|" or any("_" in name for name in header) or _has_numbers(header, body))


def _rows(text: str, delimiter: str) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text.strip(), newline=""), delimiter=delimiter)
    try:
        return [row for row in islice(reader, MOST_ROWS) if any(cell.strip() for cell in row)]
    except csv.Error:
        return []


def _is_header(cells: Sequence[str]) -> bool:
    """Short names, all different, none a number or a sentence; a last cell may be empty."""
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    return (
        len(names) >= LEAST_COLUMNS
        and len(set(names)) == len(names)
        and not any(not name or len(name) > LONGEST_HEADING or _NUMBER.fullmatch(name) for name in names)
        and not any(_SENTENCE.search(name) for name in names)
    )


def _folded(cell: str) -> str:
    return re.sub(r"\(.*?\)|（.*?）|[\W_]+", "", cell.lower())


def _has_numbers(header: Sequence[str], body: Sequence[Sequence[str]]) -> bool:
    """Whether a column is of numbers alone."""
    return any(all(_NUMBER.fullmatch(row[column].strip()) for row in body) for column in range(len(header)))
