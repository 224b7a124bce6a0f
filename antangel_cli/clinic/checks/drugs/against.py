"""Drugs named in a text, against the patient's allergies and pregnancy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.checks.drugs.allergies import Allergen, Allergies, allergies
from antangel_cli.clinic.checks.drugs.names import Drug, Mention, crosses, drug, drugs_in, is_substance_only
from antangel_cli.clinic.checks.drugs.pregnancy import Gestation, gestation
from antangel_cli.clinic.checks.drugs.wording import say
from antangel_cli.clinic.checks.text_folding import folded
from antangel_cli.clinic.facts import Fact
from antangel_cli.clinic.rules import load_rules

REACH = 80
"""Characters before and after a name that say whether it is to be avoided."""
_CLAUSE = re.compile(r"[.!?;。；！？\n]")

Conflict = dict[str, Any]
Prose = Iterable[tuple[str, str]]
"""Places and the texts that stand there."""


@dataclass(frozen=True)
class Patient:
    """What a drug is held against."""

    allergies: Allergies
    gestation: Gestation
    chinese: bool

    @classmethod
    def of(cls, case: Case, rows: Sequence[Fact]) -> Patient:
        """What a case says of allergies and pregnancy."""
        return cls(allergies(case, rows), gestation(case, rows), case.chinese)


@dataclass(frozen=True)
class Named:
    """A drug, or a way of imaging, where it was named; `avoided` when the text says to leave it."""

    drug: Drug
    place: str
    avoided: bool

    @property
    def context(self) -> str:
        """As results carry it."""
        return "avoided" if self.avoided else "proposed"


def drugs_named(prose: Prose) -> tuple[Named, ...]:
    """Each drug once for each context, at the first place that names it."""
    found: dict[tuple[str, bool], Named] = {}
    for place, text in prose:
        plain = folded(text)
        for mention in drugs_in(text):
            if not is_substance_only(mention.drug):
                named = Named(mention.drug, place, is_avoided(plain, mention))
                found.setdefault((mention.drug.id, named.avoided), named)
    return tuple(found.values())


@cache
def _avoided(name: str) -> re.Pattern[str]:
    return re.compile(load_rules("drugs/words")["avoided"][name])


def is_avoided(text: str, mention: Mention) -> bool:
    """Whether a folded text names a drug as one to avoid, stop, or as an allergy."""
    before = _CLAUSE.split(text[max(0, mention.start - REACH) : mention.start])[-1]
    after = text[mention.end : mention.end + REACH]
    ends = [match.end() for match in _avoided("before").finditer(before)]
    turns = [match.end() for match in _avoided("turn").finditer(before)]
    return (bool(ends) and (not turns or ends[-1] >= turns[-1])) or bool(_avoided("after").match(after))


def allergy_conflicts(named: Sequence[Named], patient: Patient) -> tuple[Conflict, ...]:
    """Possible conflicts with the allergies known; with none recorded, every drug proposed says so."""
    if not patient.allergies.recorded:
        return tuple(_not_recorded(entry, patient.chinese) for entry in named if not entry.avoided)
    return tuple(
        conflict
        for entry in named
        for allergen in patient.allergies.known
        if (conflict := _against(entry, allergen, patient.chinese)) is not None
    )


def _not_recorded(entry: Named, chinese: bool) -> Conflict:
    name = entry.drug.name(chinese)
    return _conflict(entry, None, "not_recorded", (), say("not_recorded", chinese, drug=name), chinese)


def _against(entry: Named, allergen: Allergen, chinese: bool) -> Conflict | None:
    """The strongest way in which a drug meets an allergen."""
    for basis, class_id in _bases(entry.drug, allergen.drugs):
        key = "same" if basis == "same" else "class" if basis == "class" else "cross"
        about = {
            "drug": entry.drug.name(chinese),
            "allergen": allergen.text,
            "group": drug(class_id).name(chinese) if class_id else "",
            "strength": say(basis, chinese) if key == "cross" else "",
        }
        message = say(key, chinese, **about) + (say("avoided", chinese) if entry.avoided else "")
        return _conflict(entry, allergen.text, key, (allergen.fact_id,), message, chinese)
    return None


def _bases(named: Drug, known: Sequence[Drug]) -> Iterator[tuple[str, str | None]]:
    """Ways in which a drug meets an allergen, the strongest first, each with the class it rests on."""
    if any(named.id == other.id for other in known):
        yield "same", None
    for shared in sorted(named.classes & {c for other in known for c in other.classes}):
        yield "class", shared
    pairs = [(mine, c) for mine in sorted(named.classes) for other in known for c in sorted(other.classes)]
    strengths = [(crosses().get(frozenset(pair)), pair[0]) for pair in pairs if pair[0] != pair[1]]
    yield from sorted((strength, mine) for strength, mine in strengths if strength)


def _conflict(
    entry: Named, allergen: str | None, basis: str, fact_ids: Sequence[str], message: str, chinese: bool
) -> Conflict:
    return {
        "drug": entry.drug.name(chinese),
        "allergen": allergen,
        "basis": basis,
        "context": entry.context,
        "place": entry.place,
        "fact_ids": [fact_id for fact_id in fact_ids if fact_id],
        "message": message,
    }


def pregnancy_conflicts(named: Sequence[Named], prose: Prose, patient: Patient) -> tuple[Conflict, ...]:
    """Drugs and radiation in pregnancy; while it is not known, every one of them carries `check pregnancy`."""
    if patient.gestation.status == "no":
        return ()
    radiation = tuple(_radiation(prose))
    if patient.gestation.status == "possible":
        return tuple(_unknown(entry, patient) for entry in (*named, *radiation) if not entry.avoided)
    found = [conflict for entry in named for conflict in _in_pregnancy(entry, patient)]
    return (*found, *(_pregnancy(entry, "radiation", patient) for entry in radiation))


@cache
def _radiation_words() -> re.Pattern[str]:
    return re.compile(load_rules("drugs/words")["pregnancy"]["radiation"])


def _radiation(prose: Prose) -> Iterator[Named]:
    seen: set[str] = set()
    for place, text in prose:
        plain = folded(text)
        for match in _radiation_words().finditer(plain):
            word = match.group().upper() if len(match.group()) <= 5 else match.group()
            source = Drug("radiation", word, word, frozenset())
            entry = Named(source, place, is_avoided(plain, Mention(source, *match.span())))
            if not entry.avoided and word not in seen:
                seen.add(word)
                yield entry


def _unknown(entry: Named, patient: Patient) -> Conflict:
    return _pregnancy(entry, "unknown", patient)


def _in_pregnancy(entry: Named, patient: Patient) -> Iterator[Conflict]:
    for rule in load_rules("drugs/pregnancy")["rule"]:
        if _concerns(rule, entry.drug) and _at(rule, patient.gestation.weeks):
            yield _pregnancy(entry, rule["level"], patient, rule["zh" if patient.chinese else "en"])
            return


def _concerns(rule: dict[str, Any], named: Drug) -> bool:
    if named.id in rule.get("except", ()):
        return False
    return named.id in rule.get("drugs", ()) or bool(named.classes & set(rule.get("classes", ())))


def _at(rule: dict[str, Any], weeks: float | None) -> bool:
    """Whether a rule holds at so many weeks; with no weeks known it does."""
    return weeks is None or rule.get("from_weeks", 0) <= weeks < rule.get("until_weeks", 100)


def _pregnancy(entry: Named, basis: str, patient: Patient, why: str = "") -> Conflict:
    chinese = patient.chinese
    message = say(f"pregnancy_{basis}", chinese, drug=entry.drug.name(chinese), why=why)
    conflict = _conflict(entry, None, basis, patient.gestation.fact_ids, message, chinese)
    if entry.avoided:
        conflict["message"] += say("avoided", chinese)
    return {key: value for key, value in conflict.items() if key != "allergen"}
