"""Narrative (`text.div`): read only where a resource has no structured content; hidden passages are left out."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from antangel_cli.clinic.readers.fhir.bundle import Resource
from antangel_cli.clinic.readers.fhir.values import Concept, concept

_HIDING = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0|opacity\s*:\s*0(?!\.)", re.I)
_LISTED = re.compile(r"Generated Narrative\b")
"""How HL7's publisher begins what it writes."""
_VOID = {"br", "hr", "img", "col"}


class _Text(HTMLParser):
    """Collects what a reader would see."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self.hidden = False
        self._depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _VOID:
            self.pieces.append(" ")
            return
        hides = tag in ("script", "style") or any(
            name == "hidden" or (name == "style" and _HIDING.search(value or "")) for name, value in attrs
        )
        if self._depth or hides:
            self._depth += 1

    def handle_endtag(self, tag: str) -> None:
        if self._depth and tag not in _VOID:
            self._depth -= 1
        self.pieces.append(" ")

    def handle_data(self, data: str) -> None:
        if self._depth and data.strip():
            self.hidden = True
        elif not self._depth:
            self.pieces.append(data)


def visible_text(html: str) -> tuple[str, bool]:
    """The text of a piece of HTML that a reader would see, and whether some was hidden."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    return " ".join("".join(parser.pieces).split()), parser.hidden


def narrative(resource: Resource) -> tuple[str, bool]:
    """The visible narrative of a resource, empty where it has none, and whether some was hidden.

    A list of all fields that a program wrote counts as none: it says names and numbers, and nothing in words.
    """
    text = resource.content.get("text")
    html = text.get("div") if isinstance(text, dict) else None
    shown, hidden = visible_text(html) if isinstance(html, str) else ("", False)
    return ("", hidden) if _LISTED.match(shown) else (shown, hidden)


def concept_or_narrative(resource: Resource, *names: str) -> Concept | None:
    """The first of these fields that says something, else the narrative."""
    found = next((c for c in (concept(resource.content.get(name)) for name in names) if c), None)
    text = "" if found else narrative(resource)[0]
    return found or (Concept(text) if text else None)
