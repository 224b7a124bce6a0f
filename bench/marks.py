"""Tables that stand between marks on a page of docs/: `<!-- name -->` before, `<!-- /name -->` behind."""

from __future__ import annotations

import re
from collections.abc import Mapping


def filled(text: str, tables: Mapping[str, str]) -> str:
    """The page with its tables, by the name of their marks; tables that the page has no marks for are left out."""
    for name, table in tables.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = marks.sub(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text)  # type: ignore[misc]
    return text
