"""Drugs by name: what a text calls them, in English and Chinese, and the classes an allergy to them spans."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from antangel_cli.clinic.checks.text_folding import folded
from antangel_cli.clinic.rules import load_rules

TABLES = (
    "antimicrobials",
    "heart_and_blood",
    "hormones_gut_lungs",
    "immune_cancer_others",
    "nerves_and_mind",
    "pain_and_anaesthesia",
)
"""The files under `rules/drugs/` that list ingredients."""

_START = re.compile(r"[^\W_\u3400-\u9fff]+|[\u3400-\u9fff]")
_PLURAL = re.compile(r"s(?![a-z0-9])")


@dataclass(frozen=True)
class Drug:
    """An ingredient, or a class that a text names as a whole (`ingredient` false)."""

    id: str
    en: str
    zh: str
    classes: frozenset[str]
    ingredient: bool = True

    def name(self, chinese: bool) -> str:
        """Its name in a language."""
        return self.zh if chinese else self.en


@dataclass(frozen=True)
class Mention:
    """One drug named in a text; `start` and `end` count in the folded text. A combination gives one for each part."""

    drug: Drug
    start: int
    end: int


@cache
def classes() -> Mapping[str, dict[str, Any]]:
    """The classes by id, as `rules/drugs/classes.toml` has them."""
    found: dict[str, dict[str, Any]] = load_rules("drugs/classes")["classes"]
    return found


@cache
def ingredients() -> Mapping[str, dict[str, Any]]:
    """Every ingredient's row by its INN."""
    return {inn: row for table in TABLES for inn, row in load_rules(f"drugs/{table}")["ingredients"].items()}


@cache
def crosses() -> Mapping[frozenset[str], str]:
    """How strongly two classes cross-react: `possible` or `weak`, either way round."""
    return {
        frozenset((class_id, other["to"])): other["strength"]
        for class_id, row in classes().items()
        for other in row.get("cross", ())
    }


@cache
def drug(drug_id: str) -> Drug:
    """The ingredient or class of this id. Raises KeyError for another."""
    if drug_id in classes():
        row = classes()[drug_id]
        return Drug(drug_id, row["en"], row["zh"], frozenset({drug_id}), ingredient=False)
    row = ingredients()[drug_id]
    return Drug(drug_id, drug_id, row.get("zh", [drug_id])[0], frozenset(row.get("classes", ())))


def names(row: Mapping[str, Any]) -> list[str]:
    """What else an ingredient or a combination may be called."""
    return [*row.get("also", ()), *row.get("zh", ()), *row.get("brands", ())]


def _names() -> Iterator[tuple[str, tuple[str, ...]]]:
    for inn, row in ingredients().items():
        yield from ((name, (inn,)) for name in (inn, *names(row)))
    for name, row in load_rules("drugs/combinations")["combinations"].items():
        yield from ((other, tuple(row["parts"])) for other in (name, *names(row)))
    for class_id, row in classes().items():
        yield from ((name, (class_id,)) for name in row.get("words", ()))


@cache
def _index() -> Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]]:
    """Names with the ids they stand for, by their first word or Chinese character, the longest first."""
    found: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for name, ids in _names():
        text = folded(name)
        first = _START.search(text)
        if first is None:
            raise ValueError(f"no name: {name}")
        found.setdefault(first.group(), []).append((text, ids))
    return {first: tuple(sorted(rows, key=lambda row: -len(row[0]))) for first, rows in found.items()}


def drugs_in(text: str) -> tuple[Mention, ...]:
    """The drugs and classes that a text names, in order; of names that overlap, the longest. Linear in the text."""
    plain = folded(text)
    found: list[Mention] = []
    end = 0
    for word in _START.finditer(plain):
        if word.start() < end:
            continue
        for name, ids in _named(word.group()):
            stop = _matched(plain, word.start(), name)
            if stop is not None:
                found += [Mention(drug(i), word.start(), stop) for i in ids]
                end = stop
                break
    return tuple(found)


def _named(word: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The names that begin with a word, or with the word of which it is the plural."""
    index = _index()
    return index.get(word) or (index.get(word[:-1], ()) if word.endswith("s") else ())


def _matched(text: str, start: int, name: str) -> int | None:
    """Where a name ends that stands at `start` as words of its own; None when it does not stand there."""
    end = start + len(name)
    if not text.startswith(name, start):
        return None
    if name[-1].isascii():
        plural = _PLURAL.match(text, end)
        end = plural.end() if plural else end
        if _is_latin(text[end : end + 1]):
            return None
    return None if _is_other_word(text, start, end) else end


def _is_latin(char: str) -> bool:
    return char.isascii() and char.isalnum()


@cache
def _other_words() -> tuple[re.Pattern[str], re.Pattern[str]]:
    words = load_rules("drugs/words")
    before = "|".join(map(re.escape, words["not_after"]))
    after = "|".join(f"{re.escape(word)}\\b" if word.isascii() else re.escape(word) for word in words["not_before"])
    return re.compile(f"(?:{before})$"), re.compile(f" ?(?:{after})")


def _is_other_word(text: str, start: int, end: int) -> bool:
    """Whether what stands around a name makes it another word: `Aspirin Creek`, `non-penicillin`."""
    before, after = _other_words()
    return bool(before.search(text[max(0, start - 5) : start]) or after.match(text, end))


@cache
def _entries() -> Mapping[str, str]:
    """Words that mean a class when they are all that an entry of an allergy list says."""
    return {folded(word): class_id for class_id, row in classes().items() for word in row.get("entries", ())}


def resolve_allergen(substance: str) -> tuple[Drug, ...]:
    """The drugs and classes that an entry of an allergy list names; none for a substance that no table has."""
    entry = re.sub(r"\s*(?:\ballerg(?:y|ies)|过敏)\s*$", "", folded(substance)).strip(" .,;。，；")
    if entry in _entries():
        return (drug(_entries()[entry]),)
    return tuple(dict.fromkeys(mention.drug for mention in drugs_in(entry)))


def is_substance_only(found: Drug) -> bool:
    """Whether it is no drug but a substance such as latex: an allergen that is not given."""
    return not found.ingredient and not classes()[found.id].get("drug", True)
