"""One answer against its gold: each measure as a part of a whole, or nothing where it cannot be had."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from antangel_cli.clinic.checks.statements import asserted, statements
from antangel_cli.clinic.checks.urgency import ORDER
from antangel_cli.clinic.evaluation.gold import Gold, Name
from antangel_cli.clinic.facts import Fact

Part = tuple[float, float]
"""What was reached, of how much: 2 of 3 diagnoses, 1 of 1 case."""
Record = Mapping[str, Any]

TRUE_FIRST = 3
"""So many of a true differential are looked for."""
_CLAUSE_END = r"\w(?=\s*[,，、]|\s*$)"


def score(record: Record, gold: Gold | None) -> dict[str, Part]:
    """Every measure that this case has. A case without an answer has missed what it was asked for."""
    listed = answered(record)
    parts: dict[str, Part | None] = {"whole_answers": (float(bool(listed)), 1)}
    parts["citation_validity"] = _citations(record)
    if gold is not None:
        parts |= {f"top{k}": _found(gold.diagnosis, listed[:k], Name.named) for k in (1, 3)}
        parts |= {f"top{k}_with_codes": _found(gold.diagnosis, listed[:k], _matches) for k in (1, 3)}
        parts["cant_miss_recall"] = _recall(gold.cant_miss, listed)
        parts["differential_recall"] = _recall(gold.differential[:TRUE_FIRST], listed)
        parts |= _triage(record.get("urgency_final"), gold.urgency)
    return {name: part for name, part in parts.items() if part is not None}


def answered(record: Record) -> list[dict[str, Any]]:
    """The diagnoses of a record, by rank."""
    return list(record["result"]["differential"]) if record.get("result") else []


def _matches(name: Name, diagnosis: dict[str, Any]) -> bool:
    return name.named(diagnosis) or name.coded(diagnosis)


def _found(
    wanted: Sequence[Name], listed: Sequence[dict[str, Any]], match: Callable[[Name, dict[str, Any]], bool]
) -> Part | None:
    """Whether any right diagnosis is listed."""
    return (float(any(match(name, each) for name in wanted for each in listed)), 1) if wanted else None


def _recall(wanted: Sequence[Name], listed: Sequence[dict[str, Any]]) -> Part | None:
    """How many of the wanted are listed, at any rank."""
    found = sum(any(_matches(name, each) for each in listed) for name in wanted)
    return (found, len(wanted)) if wanted else None


def _triage(final: str | None, gold: str | None) -> dict[str, Part | None]:
    """Whether the final urgency lies under or over the true one; `undetermined` is neither, and counted apart."""
    if gold is None:
        return {}
    step = ORDER.index(final) - ORDER.index(gold) if final in ORDER else 0
    return {
        "under_triage": (float(step < 0), 1),
        "over_triage": (float(step > 0), 1),
        "undetermined": (float(final not in ORDER), 1),
    }


def _citations(record: Record) -> Part | None:
    """Supporting citations that hold: the fact exists, is present, and is not cited against the diagnosis too."""
    facts = {fact["id"]: fact for fact in record.get("facts", ())}
    cited = [(d["name"], e["fact_id"]) for d in answered(record) for e in d["supporting"]]
    remarks = record.get("checks", {}).get("answer_remarks", ())
    torn = {(r.get("name"), r.get("fact_id")) for r in remarks if r["check"] == "both_sides"}
    held = sum(i in facts and not _denied(facts[i]) and (name, i) not in torn for name, i in cited)
    return (held, len(cited)) if cited else None


def _denied(fact: Mapping[str, Any]) -> bool:
    """Whether a fact only says what is not there: `fever: absent`, or a sentence that denies all it names."""
    if fact["absent"]:
        return True
    stated = statements([Fact(fact["id"], fact["kind"], fact["text"], fact["path"])])
    return bool(stated) and not any(asserted(statement, _CLAUSE_END, past=True) for statement in stated)
