"""A site's own red-flag rules: one more file, which can raise the urgency of a case and never lower it."""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.rules.patterns import pattern_fault

PREFIX = "site."
LARGEST = 1 << 20
"""Bytes of a site's file."""

Urgency = Literal["emergency", "urgent", "soon", "routine", "self_care"]
COMPARISON = re.compile(r"(\w+) (<=|>=|<|>) (\d+(?:\.\d+)?)")
"""How a rule compares a measured value, in the unit the table of quantities counts in."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class Words(_Strict):
    """What a rule says, in both languages."""

    en: str = Field(min_length=1, max_length=200)
    zh: str = Field(min_length=1, max_length=200)


class ConditionRow(_Strict):
    """One entry of `when`, as written."""

    en: str | None = None
    zh: str | None = None
    measured: list[str] = Field(default=[], max_length=20)
    past: bool = False


class RuleRow(_Strict):
    """One `[[rule]]` of a file, as written."""

    id: str = Field(pattern=r"^[a-z0-9_.]{1,64}$")
    urgency: Urgency
    concern: Words
    when: list[ConditionRow] = Field(min_length=1, max_length=6)
    cant_miss: str | None = None
    min_age: float = 0.0
    max_age: float = 1000.0
    sex: Literal["female", "male"] | None = None
    pregnancy: list[Literal["pregnant", "not_pregnant", "postpartum"]] = []
    source: str | None = None
    reviewed: bool = False
    reviewer: str | None = None
    reviewed_on: str | None = None


class SiteFile(_Strict):
    """The whole file."""

    version: str = Field(min_length=1, max_length=40)
    reviewed: bool = False
    source: str | None = None
    reviewer: str | None = None
    reviewed_on: str | None = None
    rule: list[RuleRow] = Field(min_length=1, max_length=500)


@dataclass(frozen=True)
class SiteRules:
    """A site's rules, checked: rows as red flags read them, with the version and hash of their file."""

    version: str
    hash: str
    rows: tuple[dict[str, Any], ...]


_USED: dict[str, SiteRules] = {}


def use_site_rules(path: str | None, own_ids: frozenset[str], quantities: frozenset[str]) -> None:
    """Add the rules of a site's file to every check from here on; None takes them away.

    Raises InputError naming the file, the rule and the remedy for anything that is not a rule that only adds.
    """
    found = read_site_rules(Path(path), own_ids, quantities) if path else None
    _USED.clear()
    if found:
        _USED["site"] = found


def site_rules() -> SiteRules | None:
    """The site's rules in use."""
    return _USED.get("site")


def read_site_rules(path: Path, own_ids: frozenset[str], quantities: frozenset[str]) -> SiteRules:
    """Read and check a site's file. `own_ids` are taken; `quantities` are what `measured` may name."""
    data = _bytes(path)
    try:
        content = tomllib.loads(data.decode("utf-8"))
        file = SiteFile.model_validate(content)
    except ValidationError as error:
        raise _refused(path, *_first_fault(content, error)) from None
    except ValueError as error:
        raise _refused(path, "the file", f"is no TOML in UTF-8: {error}") from None
    taken = set(own_ids)
    for number, rule in enumerate(file.rule, 1):
        fault = _fault(rule, taken, quantities)
        if fault:
            raise _refused(path, f"rule {number} ({rule.id})", fault)
        taken.add(rule.id)
    rows = tuple(rule.model_dump(exclude_defaults=True) for rule in file.rule)
    return SiteRules(file.version, hashlib.sha256(data).hexdigest(), rows)


def _bytes(path: Path) -> bytes:
    if not path.is_absolute():
        raise _refused(path, "the path", "is relative: it would depend on where the command is run")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _refused(path, "the file", f"cannot be read: {error.strerror}") from None
    if len(data) > LARGEST:
        raise _refused(path, "the file", f"is larger than {LARGEST} bytes")
    return data


def _refused(path: Path, place: str, fault: str) -> InputError:
    remedy = "Correct the site's rules, or take the setting `site_rules` away; see docs/rules.md."
    return InputError(f"{place} {fault}.", remedy, str(path))


def _first_fault(content: dict[str, Any], error: ValidationError) -> tuple[str, str]:
    """Where pydantic stopped, with the rule by number and name, and what it says."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = [str(part) for part in first["loc"]]
    if len(first["loc"]) > 1 and first["loc"][0] == "rule" and isinstance(first["loc"][1], int):
        place = [f"rule {first['loc'][1] + 1}", *place[2:]]
    return " ".join(place) or "the file", f"is wrong: {first['msg']}"


def _fault(rule: RuleRow, taken: set[str], quantities: frozenset[str]) -> str | None:
    if not rule.id.startswith(PREFIX):
        return f"has an id that does not begin with `{PREFIX}`"
    if rule.id in taken:
        return "has an id that another rule has"
    if not 0 <= rule.min_age <= rule.max_age:
        return "has ages out of order"
    faults = (_condition_fault(row, quantities) for row in rule.when)
    return next((fault for fault in (*faults, _pattern_fault("cant_miss", rule.cant_miss)) if fault), None)


def _condition_fault(row: ConditionRow, quantities: frozenset[str]) -> str | None:
    if row.en is None and row.zh is None and not row.measured:
        return "has an entry of `when` with neither words nor values"
    for text in row.measured:
        if not COMPARISON.fullmatch(text):
            return f"compares `{text}`; write it like `potassium >= 6.5`"
        if text.split()[0] not in quantities:
            return f"measures `{text.split()[0]}`, which is no quantity of this tool"
    return _pattern_fault("en", row.en) or _pattern_fault("zh", row.zh)


def _pattern_fault(name: str, pattern: str | None) -> str | None:
    fault = pattern_fault(pattern) if pattern is not None else None
    return f"has a pattern `{name}` that {fault}" if fault else None
