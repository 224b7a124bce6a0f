"""Which codes ICD-10-CM has: the list of the release that the package `simple-icd-10-cm` carries (CDC, public domain).

The package itself takes seconds and 200 MB to parse every title; only its list of codes is read here.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path


def is_listed(code: str) -> bool:
    """Whether a code such as `I21.9` is in the list; categories such as `I21` are."""
    return code.replace(".", "") in _listed()


@cache
def _listed() -> frozenset[str]:
    found = find_spec("simple_icd_10_cm")
    folders = (found.submodule_search_locations or []) if found else []
    files = [path for folder in folders for path in sorted((Path(folder) / "data").glob("**/code-list-*.txt"))]
    if not files:
        raise FileNotFoundError("the ICD-10-CM list of simple-icd-10-cm is missing: install it again")
    return frozenset(files[-1].read_text(encoding="utf-8").split())
