"""Post-checks: what the tool corrects in, or remarks about, a model's answer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from antangel_cli.clinic.checks import Checks
from antangel_cli.clinic.checks.urgency import ORDER
from antangel_cli.clinic.codes import is_listed
from antangel_cli.clinic.dose import mark_doses, withhold_doses
from antangel_cli.clinic.facts import Fact
from antangel_cli.clinic.result import CODE_PATTERN, LIKELIHOODS, Diagnosis, Differential, Evidence

FEWEST = 3
"""Fewer diagnoses than this are no differential."""

_CODE = re.compile(CODE_PATTERN)

_SAY: dict[str, tuple[str, str]] = {
    "merged": ("{name}: was listed twice; merged", "{name}：重复列出，已合并"),
    "both_sides": (
        "{name}: {fact_id} was cited both for and against; kept as for",
        "{name}：{fact_id}同时用于支持和反对，保留为支持",
    ),
    "absent_support": (
        "{name}: {fact_id}, an absent finding, is cited in support",
        "{name}：以不存在的所见{fact_id}作为支持",
    ),
    "absent_red_flag": (
        "a red flag rests on {fact_id}, an absent finding",
        "警示征象引用了不存在的所见{fact_id}",
    ),
    "rank_order": ("{name}: ranked below a less likely diagnosis", "{name}：排在可能性更低的诊断之后"),
    "cant_miss_absent": (
        "{concern}: a rule fired, and no such diagnosis is listed",
        "{concern}：规则已触发，但未列出相应诊断",
    ),
    "urgency_raised": (
        "urgency raised to soon: {name} must not be missed",
        "紧急程度上调为尽快：{name}不可漏诊",
    ),
    "dose_unchecked": ("a dose that nobody checked is shown in {place}", "{place}中显示了未核对的剂量"),
    "dose_withheld": ("a dose was withheld in {place}", "{place}中的剂量已隐去"),
}


@dataclass(frozen=True)
class Reviewed:
    """An answer after the post-checks, with the remarks about it."""

    answer: Differential = field(repr=False)
    remarks: tuple[dict[str, Any], ...] = field(repr=False)
    dropped_codes: tuple[dict[str, str], ...]
    unverified_codes: tuple[dict[str, str], ...]

    @property
    def degraded(self) -> tuple[str, ...]:
        """Why the answer degrades its result."""
        return ("fewer_than_three_diagnoses",) if len(self.answer.differential) < FEWEST else ()


Step = Callable[[Differential, "Context"], Differential]


class Context:
    """What the post-checks know besides the answer, and the remarks they leave."""

    def __init__(self, rows: Sequence[Fact], checks: Checks, chinese: bool, doses: bool) -> None:
        self.absent = {fact.id for fact in rows if fact.absent}
        self.checks = checks
        self.chinese = chinese
        self.doses = doses
        self.remarks: list[dict[str, Any]] = []

    def remark(self, check: str, **about: str) -> None:
        """Leave a remark; the same one is left once."""
        entry = {"check": check, **about, "message": _SAY[check][self.chinese].format(**about)}
        if entry not in self.remarks:
            self.remarks.append(entry)


def review(answer: Differential, rows: Sequence[Fact], checks: Checks, chinese: bool, doses: bool = False) -> Reviewed:
    """Run every post-check over an answer. With `doses` they are shown and marked, else withheld."""
    context = Context(rows, checks, chinese, doses)
    answer, dropped = _drop_codes(answer)
    for step in STEPS:
        answer = step(answer, context)
    unverified = tuple(
        {"diagnosis": d.name, "code": code} for d in answer.differential for code in d.codes if not is_listed(code)
    )
    return Reviewed(answer, tuple(context.remarks), dropped, unverified)


def normalized_name(name: str) -> str:
    """A diagnosis's name for comparison: folded, without punctuation, spaces and what stands in brackets."""
    text = re.sub(r"[(\[].*?[)\]]", "", unicodedata.normalize("NFKC", name).casefold())
    return re.sub(r"[\W_]+", "", text)


def _drop_codes(answer: Differential) -> tuple[Differential, tuple[dict[str, str], ...]]:
    """Drop what has not the form of a code. Those that have it are kept; ICD-10-CM's list tells them apart."""
    dropped = tuple(
        {"diagnosis": d.name, "code": code}
        for d in answer.differential
        for code in d.codes
        if not _CODE.fullmatch(code)
    )
    kept = tuple(
        d.model_copy(update={"codes": tuple(c for c in d.codes if _CODE.fullmatch(c))}) for d in answer.differential
    )
    return answer.model_copy(update={"differential": kept}), dropped


def _merge_duplicates(answer: Differential, context: Context) -> Differential:
    merged: list[Diagnosis] = []
    for diagnosis in answer.differential:
        place = next((i for i, other in enumerate(merged) if _same(other, diagnosis)), None)
        if place is None:
            merged.append(diagnosis)
            continue
        merged[place] = _merge(merged[place], diagnosis)
        context.remark("merged", name=merged[place].name)
    return answer.model_copy(update={"differential": tuple(merged)})


def _same(a: Diagnosis, b: Diagnosis) -> bool:
    return normalized_name(a.name) == normalized_name(b.name) or bool(a.codes and b.codes and a.codes[0] == b.codes[0])


def _merge(a: Diagnosis, b: Diagnosis) -> Diagnosis:
    """The higher-ranked entry with the evidence of both; it must not be missed if either says so."""
    return a.model_copy(
        update={
            "supporting": (*a.supporting, *b.supporting),
            "contradicting": (*a.contradicting, *b.contradicting),
            "missing": tuple(dict.fromkeys((*a.missing, *b.missing))),
            "cant_miss": a.cant_miss or b.cant_miss,
            "likelihood": min(a.likelihood, b.likelihood, key=LIKELIHOODS.index),
            "codes": tuple(dict.fromkeys((*a.codes, *b.codes))),
        }
    )


def _join_citations(answer: Differential, context: Context) -> Differential:
    """A fact that is cited twice on one side of a diagnosis stands there once, with both reasons."""
    return _each(
        answer,
        lambda diagnosis: diagnosis.model_copy(
            update={
                "supporting": _joined(diagnosis.supporting),
                "contradicting": _joined(diagnosis.contradicting),
            }
        ),
    )


def _joined(cited: Sequence[Evidence]) -> tuple[Evidence, ...]:
    reasons: dict[str, dict[str, None]] = {}
    for evidence in cited:
        reasons.setdefault(evidence.fact_id, {})[evidence.why] = None
    return tuple(Evidence(fact_id=fact_id, why="; ".join(filter(None, whys))) for fact_id, whys in reasons.items())


def _take_sides(answer: Differential, context: Context) -> Differential:
    """A fact cannot speak for and against one diagnosis: the contradicting citation is dropped."""
    return _each(answer, lambda diagnosis: _without_both(diagnosis, context))


def _without_both(diagnosis: Diagnosis, context: Context) -> Diagnosis:
    cited = {evidence.fact_id for evidence in diagnosis.supporting}
    for evidence in diagnosis.contradicting:
        if evidence.fact_id in cited:
            context.remark("both_sides", name=diagnosis.name, fact_id=evidence.fact_id)
    return diagnosis.model_copy(
        update={"contradicting": tuple(e for e in diagnosis.contradicting if e.fact_id not in cited)}
    )


def _remark_absent(answer: Differential, context: Context) -> Differential:
    for diagnosis in answer.differential:
        for evidence in diagnosis.supporting:
            if evidence.fact_id in context.absent:
                context.remark("absent_support", name=diagnosis.name, fact_id=evidence.fact_id)
    for flag in answer.red_flags:
        for fact_id in set(flag.fact_ids) & context.absent:
            context.remark("absent_red_flag", fact_id=fact_id)
    return answer


def _remark_order(answer: Differential, context: Context) -> Differential:
    best = 0
    for diagnosis in answer.differential:
        band = LIKELIHOODS.index(diagnosis.likelihood)
        if band < best:
            context.remark("rank_order", name=diagnosis.name)
        best = max(best, band)
    return answer


def _remark_cant_miss(answer: Differential, context: Context) -> Differential:
    names = [unicodedata.normalize("NFKC", diagnosis.name).lower() for diagnosis in answer.differential]
    for fired in context.checks.red_flags:
        wanted = fired.rule.cant_miss
        if wanted and not any(re.search(wanted, name) for name in names):
            concern = fired.rule.concern["zh" if context.chinese else "en"]
            context.remark("cant_miss_absent", rule=fired.rule.id, concern=concern)
    return answer


def _raise_urgency(answer: Differential, context: Context) -> Differential:
    """`routine` and `self_care` cannot stand beside a diagnosis that must not be missed and is possible."""
    grave = next((d for d in answer.differential if d.cant_miss and d.likelihood != "unlikely"), None)
    if grave is None or answer.urgency not in ORDER[: ORDER.index("soon")]:
        return answer
    context.remark("urgency_raised", name=grave.name)
    return answer.model_copy(update={"urgency": "soon"})


def _withhold_doses(answer: Differential, context: Context) -> Differential:
    return Differential.model_validate(_withheld(answer.model_dump(), "result", context))


_NOT_PROSE = {"fact_id", "fact_ids", "codes", "likelihood", "urgency", "confidence", "kind", "timing"}


def _withheld(value: Any, place: str, context: Context) -> Any:
    if isinstance(value, str):
        text = (mark_doses if context.doses else withhold_doses)(value, context.chinese)
        if text != value:
            context.remark("dose_unchecked" if context.doses else "dose_withheld", place=place)
        return text
    if isinstance(value, dict):
        return {k: v if k in _NOT_PROSE else _withheld(v, f"{place}.{k}", context) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_withheld(item, f"{place}[{i}]", context) for i, item in enumerate(value))
    return value


def _each(answer: Differential, change: Callable[[Diagnosis], Diagnosis]) -> Differential:
    return answer.model_copy(update={"differential": tuple(change(diagnosis) for diagnosis in answer.differential)})


STEPS: tuple[Step, ...] = (
    _merge_duplicates,
    _join_citations,
    _take_sides,
    _remark_absent,
    _remark_order,
    _remark_cant_miss,
    _raise_urgency,
    _withhold_doses,
)


def unknown_facts(answer: Differential, rows: Sequence[Fact]) -> Iterator[str]:
    """Fact ids an answer cites that the case has not: a constrained answer has none."""
    known = {fact.id for fact in rows}
    cited = [e.fact_id for d in answer.differential for e in (*d.supporting, *d.contradicting)]
    cited += [fact_id for flag in answer.red_flags for fact_id in flag.fact_ids]
    yield from (fact_id for fact_id in cited if fact_id not in known)
