"""Facts F1..Fn: everything a case states, one numbered line each, with where it came from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from antangel_cli.clinic.case import Age, Case, Finding, Item, Measurement, Patient
from antangel_cli.clinic.errors import InputError

MOST_FACTS = 10_000
"""More than any model reads: a million sentences of one letter would fill the memory."""

_SENTENCE_END = re.compile(r"(?<=[。！？；])|(?<=[.!?;])\s+|\n+")

_KINDS = {
    "patient": "患者",
    "complaint": "主诉",
    "text": "病史",
    "finding": "所见",
    "history": "既往",
    "family": "家族",
    "social": "个人",
    "procedure": "操作",
    "medication": "用药",
    "allergy": "过敏",
    "vital": "体征",
    "lab": "化验",
    "imaging": "检查",
    "note": "记录",
}
_UNITS = {"a": ("years", "岁"), "mo": ("months", "个月"), "wk": ("weeks", "周"), "d": ("days", "天")}
_SEX = {"female": ("female", "女"), "male": ("male", "男"), "intersex": ("intersex", "间性")}
_PREGNANCY = {
    "pregnant": ("pregnant", "妊娠"),
    "not_pregnant": ("not pregnant", "未孕"),
    "postpartum": ("postpartum", "产后"),
}
_FLAGS = {
    "H": (" high", " 高"),
    "HH": (" very high", " 很高"),
    "L": (" low", " 低"),
    "LL": (" very low", " 很低"),
    "A": (" abnormal", " 异常"),
}


@dataclass(frozen=True)
class Fact:
    """One statement of a case: `id` F1.., `kind`, its text as shown to the model, and its path in the source."""

    id: str
    kind: str
    text: str = field(repr=False)
    path: str
    absent: bool = False
    source: str | None = None
    """Where it stood in the document it was read from, when that is not `path`."""


def facts(case: Case) -> tuple[Fact, ...]:
    """Number everything the case states, in a fixed order; `gold` is never among it. Raises InputError above 10,000."""
    stated = (row for part in _parts(case) for row in part if row[1].strip())
    rows = [*islice(stated, MOST_FACTS + 1)]
    if len(rows) > MOST_FACTS:
        raise InputError(
            f"The case states more than {MOST_FACTS:,} facts.", "Give the parts that matter for this question."
        )
    return tuple(
        Fact(f"F{number}", kind, text, path, absent, _source(case, path))
        for number, (kind, text, path, absent) in enumerate(rows, 1)
    )


def _source(case: Case, path: str) -> str | None:
    """The place in the source of the part that a fact is of: that of `notes[0]` for `notes[0].text#2`."""
    return case._sources.get(path) or case._sources.get(re.split(r"[.#]", path, maxsplit=1)[0])


def fact_line(fact: Fact, chinese: bool) -> str:
    """The line the model sees: `F3 [vital] pulse 112 /min high`."""
    return f"{fact.id} [{_KINDS[fact.kind] if chinese else fact.kind}] {fact.text}"


def sentences(text: str) -> Iterator[str]:
    """Split prose into sentences, Chinese and Western punctuation alike."""
    return (piece.strip() for piece in _pieces(text) if piece.strip())


def _pieces(text: str) -> Iterator[str]:
    """What stands between sentence ends, one at a time: a list of all may take many times the text."""
    start = 0
    for end in _SENTENCE_END.finditer(text):
        yield text[start : end.start()]
        start = end.end()
    yield text[start:]


_Row = tuple[str, str, str, bool]


def _parts(case: Case) -> Iterator[Iterable[_Row]]:
    zh = case.chinese
    yield _patient(case.patient, zh)
    yield _prose("complaint", case.chief_complaint, "chief_complaint")
    yield _prose("text", case.narrative, "narrative")
    yield (_finding(f, i, zh) for i, f in enumerate(case.findings))
    for kind, name in (
        ("history", "history"),
        ("family", "family"),
        ("social", "social"),
        ("procedure", "procedures"),
    ):
        yield (_item(kind, item, f"{name}[{i}]", zh) for i, item in enumerate(getattr(case, name)))
    yield (
        (
            "medication",
            _join(m.text, m.dose, m.route, m.status if m.status != "active" else None),
            f"medications[{i}]",
            False,
        )
        for i, m in enumerate(case.medications)
    )
    yield _allergies(case)
    yield (_measurement("vital", m, f"vitals[{i}]", zh) for i, m in enumerate(case.vitals))
    yield (_measurement("lab", m, f"labs[{i}]", zh) for i, m in enumerate(case.labs))
    for kind, name in (("imaging", "imaging"), ("note", "notes")):
        for i, report in enumerate(getattr(case, name)):
            yield _prose(kind, report.text, f"{name}[{i}].text", report.name)


def _join(*pieces: str | None) -> str:
    return " ".join(piece.strip() for piece in pieces if piece and piece.strip())


def _number(value: float | str) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def age_text(age: Age, chinese: bool) -> str:
    """An age as the prompt writes it: `58 years`, `58岁`."""
    unit = _UNITS[age.unit][chinese]
    return f"{_number(age.value)}{unit}" if chinese else f"{_number(age.value)} {unit}"


def patient_words(patient: Patient, zh: bool) -> Iterator[tuple[str, str]]:
    """What is known of the patient, each with its name: `age` and `58 years`, `sex` and `male`."""
    if patient.age:
        yield "age", age_text(patient.age, zh)
    if patient.sex_at_birth in _SEX:
        yield "sex", _SEX[patient.sex_at_birth][zh]
    if patient.pregnancy and patient.pregnancy.status in _PREGNANCY:
        weeks = patient.pregnancy.weeks
        stated = f" {_number(weeks)} {_UNITS['wk'][zh]}" if weeks else ""
        yield "pregnancy", _PREGNANCY[patient.pregnancy.status][zh] + stated
    if patient.weight_kg:
        yield "weight", f"{_number(patient.weight_kg)} kg"
    if patient.height_cm:
        yield "height", f"{_number(patient.height_cm)} cm"
    if patient.region:
        yield "region", patient.region


def _patient(patient: Patient, zh: bool) -> Iterator[_Row]:
    words = ("，" if zh else ", ").join(words for _, words in patient_words(patient, zh))
    yield "patient", words, "patient", False


def _prose(kind: str, text: str | None, path: str, name: str | None = None) -> Iterator[_Row]:
    for i, sentence in enumerate(sentences(text or "")):
        yield kind, _join(f"{name}:" if name and not i else None, sentence), f"{path}#{i}", False


def _status(text: str, status: str, zh: bool) -> str:
    if status == "absent":
        return f"无{text}" if zh else f"no {text}"
    if status == "unknown":
        return f"{text}（未知）" if zh else f"{text} (unknown)"
    return text


def _finding(finding: Finding, index: int, zh: bool) -> _Row:
    text = _join(_status(finding.text, finding.status, zh), finding.severity, finding.onset, finding.duration)
    return "finding", text, f"findings[{index}]", finding.status == "absent"


def _item(kind: str, item: Item, path: str, zh: bool) -> _Row:
    return kind, _status(item.text, item.status, zh), path, item.status == "absent"


def _allergies(case: Case) -> Iterator[_Row]:
    for i, allergy in enumerate(case.allergies):
        yield (
            "allergy",
            _join(allergy.substance, allergy.reaction, allergy.severity),
            f"allergies[{i}]",
            False,
        )
    if case.no_known_allergies and not case.allergies:
        yield "allergy", "无已知过敏" if case.chinese else "no known allergies", "no_known_allergies", True


def _measurement(kind: str, m: Measurement, path: str, zh: bool) -> _Row:
    flag = _FLAGS.get(m.flag or _range_flag(m) or "", ("", ""))[zh]
    return kind, _join(m.name, _number(m.value), m.unit) + flag, path, False


def _range_flag(m: Measurement) -> str | None:
    if not isinstance(m.value, float):
        return None
    if m.ref_high is not None and m.value > m.ref_high:
        return "H"
    return "L" if m.ref_low is not None and m.value < m.ref_low else None
