"""Write THIRD_PARTY.md: what is installed to run antangel, its versions and licences, from the packages' own metadata.

`python docs/third_party.py` in the environment of `make setup`.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "THIRD_PARTY.md"
HEAD = """# Third-party software

What is installed to run antangel, here: Python 3.11 on x86-64 Linux without CUDA. Made by `python docs/third_party.py`
from the metadata of the installed packages; the licence is what a package says of itself. A CUDA build of torch brings
NVIDIA's libraries, under NVIDIA's own terms. A model's weights have a licence of their own. Development tools are not
listed.

| package | version | licence |
|---|---|---|
"""


def run_time(name: str = "antangel") -> dict[str, Distribution]:
    """What a package needs at run time, directly or not, by canonical name; the package itself left out."""
    found: dict[str, Distribution] = {}
    waiting = [name]
    while waiting:
        for needed in _needs(waiting.pop()):
            key = canonicalize_name(needed)
            if key not in found:
                found[key] = distribution(needed)
                waiting.append(needed)
    return found


def _needs(name: str) -> Iterator[str]:
    for line in distribution(name).requires or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            try:
                distribution(requirement.name)
            except PackageNotFoundError:
                continue
            yield requirement.name


def licence(package: Distribution) -> str:
    """The licence as the package states it: its expression, else its classifiers, else the first line of its text."""
    stated = package.metadata.get("License-Expression")
    named = [
        line.split("::")[-1].strip() for line in package.metadata.get_all("Classifier") or [] if "License ::" in line
    ]
    text = (package.metadata.get("License") or "").strip().splitlines()
    return stated or "; ".join(named) or (text[0] if text else "not stated")


def page() -> str:
    """The whole document."""
    rows = [
        f"| {package.metadata['Name']} | {package.version} | {licence(package)} |"
        for _, package in sorted(run_time().items())
    ]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
