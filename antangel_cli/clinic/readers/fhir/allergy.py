"""AllergyIntolerance: substances, and the codes that say there are none."""

from __future__ import annotations

import re
from collections.abc import Iterator

from antangel_cli.clinic.readers.fhir.bundle import Record, Resource
from antangel_cli.clinic.readers.fhir.narrative import concept_or_narrative
from antangel_cli.clinic.readers.fhir.values import Concept, codes_of, concept, entries, words
from antangel_cli.clinic.readers.parts import Found, Part, Remark
from antangel_cli.clinic.rules import load_rules

_NONE_SAID = re.compile(r"(?:no|nil)\s+(?:known\s+)?(\w+\s+)?allerg(?:y|ies)(?:\s+known)?|nk(?:d?a)\b", re.I)
"""Where a system has no code for it, only words; what stands before `allergy` says of what."""
_NONE = {name: frozenset(codes) for name, codes in load_rules("fhir")["no_known_allergies"].items()}


def read_allergy(resource: Resource, record: Record) -> Iterator[Found]:
    """One allergy; refuted ones are told as absent, resolved ones as history."""
    del record
    named = concept_or_narrative(resource, "code", "substance")
    if named is None:
        yield Remark("without_content", resource.kind)
    elif _none_known(named):
        yield Part("no_known_allergies", {"no_known_allergies": True}, resource.path)
    elif named.codes & _NONE["other"] or _NONE_SAID.fullmatch(named.text):
        yield Part("history", {"text": named.text, "code": named.code}, resource.path)
    elif "refuted" in codes_of(resource.content.get("verificationStatus")):
        yield Part("history", {"text": f"allergy: {named.text}", "status": "absent"}, resource.path)
    elif codes_of(resource.content.get("clinicalStatus")) & {"resolved"}:
        yield Part("history", {"text": f"allergy: {named.text} (resolved)"}, resource.path)
    else:
        content = {"substance": named.text, "reaction": _reaction(resource), "severity": _severity(resource)}
        yield Part("allergies", content, resource.path)


def _none_known(named: Concept) -> bool:
    """Whether it says that there is no allergy at all, or none to a drug."""
    said = _NONE_SAID.fullmatch(named.text)
    of_all = said and (said[1] or "").strip().lower() in ("", "drug", "medication", "medicine")
    return bool(named.codes & (_NONE["any"] | _NONE["drugs"]) or (of_all and not named.codes & _NONE["other"]))


def _reaction(resource: Resource) -> str | None:
    signs = [sign for row in entries(resource.content.get("reaction")) for sign in entries(row.get("manifestation"))]
    return ", ".join(dict.fromkeys(found.text for found in map(concept, signs) if found)) or None


def _severity(resource: Resource) -> str | None:
    graded = {words(row.get("severity")) for row in entries(resource.content.get("reaction"))}
    worst = next((grade for grade in ("severe", "moderate", "mild") if grade in graded), None)
    return worst or ("high risk" if resource.content.get("criticality") == "high" else None)


def without_contradiction(found: list[Found]) -> list[Found]:
    """Where allergies stand beside "none known", the allergies hold, and a remark says so."""
    denied = [part for part in found if isinstance(part, Part) and part.section == "no_known_allergies"]
    listed = any(isinstance(part, Part) and part.section == "allergies" for part in found)
    if not (denied and listed):
        return found
    return [*(part for part in found if part not in denied), Remark("allergies_contradict")]
