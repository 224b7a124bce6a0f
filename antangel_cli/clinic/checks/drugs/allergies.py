"""What a case says about allergies: in its list, and in its text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.checks.drugs.names import Drug, drugs_in, resolve_allergen
from antangel_cli.clinic.checks.text_folding import folded
from antangel_cli.clinic.facts import Fact
from antangel_cli.clinic.rules import load_rules

_SENTENCE = re.compile(r"[.!?;。！？；\n]+")


@dataclass(frozen=True)
class Allergen:
    """A substance the patient reacted to: its words, the drugs and classes it stands for, the fact that says so."""

    text: str = field(repr=False)
    drugs: tuple[Drug, ...]
    fact_id: str


@dataclass(frozen=True)
class Allergies:
    """The allergens known; `recorded` is false when nothing says that somebody asked."""

    known: tuple[Allergen, ...]
    recorded: bool


@cache
def _words(name: str) -> re.Pattern[str]:
    return re.compile(load_rules("drugs/words")["allergy"][name])


def allergies(case: Case, rows: Sequence[Fact]) -> Allergies:
    """The allergies of a case: its list, then what its sentences state."""
    listed = [a for a in _listed(case, rows) if not _words("none").fullmatch(folded(a.text).strip(" ."))]
    stated = [a for fact in rows if fact.kind not in ("family", "allergy") for a in stated_in(fact.text, fact.id)]
    denied = case.no_known_allergies is True or bool(case.allergies) or any(denied_in(fact.text) for fact in rows)
    known = tuple(listed + [a for a in stated if not _is_listed(a, listed)])
    return Allergies(known, recorded=bool(known) or denied)


def _listed(case: Case, rows: Sequence[Fact]) -> Iterator[Allergen]:
    ids = {fact.path: fact.id for fact in rows}
    for i, allergy in enumerate(case.allergies):
        yield Allergen(allergy.substance, resolve_allergen(allergy.substance), ids.get(f"allergies[{i}]", ""))


def _is_listed(stated: Allergen, listed: Sequence[Allergen]) -> bool:
    return any(set(stated.drugs) <= set(other.drugs) for other in listed)


def stated_in(text: str, fact_id: str) -> Iterator[Allergen]:
    """The allergens that the sentences of a text state: `allergic to penicillin`, `对青霉素过敏`."""
    for sentence in _SENTENCE.split(folded(text)):
        plain = _words("not_drugs").sub(" ", sentence)
        if not _words("stated").search(plain) or _words("denied").search(plain):
            continue
        for found in dict.fromkeys(mention.drug for mention in drugs_in(plain)):
            yield Allergen(found.en, (found,), fact_id)


def denied_in(text: str) -> bool:
    """Whether a text says that there are no allergies."""
    return any(
        _words("denied").search(sentence) and not drugs_in(sentence) for sentence in _SENTENCE.split(folded(text))
    )
