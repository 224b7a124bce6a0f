"""Writers: a record in one of the output formats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.writers.fhir import write_fhir
from antangel_cli.clinic.writers.json_text import write_json
from antangel_cli.clinic.writers.markdown import write_markdown
from antangel_cli.clinic.writers.page import write_page

Format = Literal["text", "md", "json", "fhir"]
Writer = Callable[[dict[str, Any], Case, bool, int, str | None], str]

WRITERS: dict[str, Writer] = {"text": write_page, "md": write_markdown, "json": write_json, "fhir": write_fhir}


def write(
    record: dict[str, Any],
    case: Case,
    format: str,
    plain: bool = False,
    width: int = 80,
    lang: str | None = None,
) -> str:
    """A record as text that ends in one newline. `lang` is the headings' language, by default the case's."""
    return WRITERS[format](record, case, plain, width, lang)
