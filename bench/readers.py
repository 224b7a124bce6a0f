"""The readers on files that others wrote: `python -m bench.readers FOLDER...`.

Reads every JSON file of each folder as `antangel validate` would, runs the checks on what was read, and counts by
resource type what was read, what was refused and why; other files, and resources of a type that states nothing of a
patient, are counted as no records. Nothing of what a file says is printed: refusals are words of our own.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.checks import facts_to_use, run_checks
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.readers import detect, read_case
from antangel_cli.clinic.readers.fhir import is_lines
from antangel_cli.clinic.readers.fhir.kinds import READ
from antangel_cli.clinic.readers.intake import take_in

ENDINGS = {".json", ".ndjson", ".jsonl"}
KINDS = (*READ, "Bundle")
_OF_A_RECORD = re.compile(rb'"resourceType"\s*:\s*"(?:' + "|".join(KINDS).encode() + rb')"')
_REMARKS = re.compile(r" \(.*\)")
"""What a refusal counts of one document, which would make each of its own kind."""


@dataclass
class Tally:
    """What became of the files of one folder."""

    name: str
    other: int = 0
    read: Counter[str] = field(default_factory=Counter)
    refused: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    broken: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    facts: int = 0
    slowest_s: float = 0.0

    def take(self, path: Path) -> None:
        """Read one file and count what came of it."""
        data = path.read_bytes()
        kind = kind_of(data, path.name)
        if kind is None:
            self.other += 1
            return
        started = time.process_time()
        try:
            self._count(kind, read_case(data, path.name))
        except InputError as error:
            self.refused[_REMARKS.sub("", error.message)][kind] += 1
        except Exception as error:
            self.broken[f"{type(error).__name__} at {_place(error)}"] += 1
        self.slowest_s = max(self.slowest_s, time.process_time() - started)

    def _count(self, kind: str, case: Case) -> None:
        rows = facts_to_use(case)
        run_checks(case, rows)
        self.read[kind] += 1
        self.facts += len(rows)
        self.remarks.update(str(warning["code"]) for warning in case._input_warnings)

    def lines(self) -> Iterator[str]:
        """The counts, for people."""
        refused = sum((counts.total() for counts in self.refused.values()), 0)
        yield (
            f"{self.name}: {self.read.total()} read, {self.facts} facts; {refused} refused;"
            f" {self.broken.total()} broke; {self.other} no records; slowest {self.slowest_s:.2f} s"
        )
        yield f"  read      {_listed(self.read)}"
        for message, kinds in sorted(self.refused.items(), key=lambda row: -row[1].total()):
            yield f"  refused   {kinds.total()}: {message} {_listed(kinds)}"
        yield from (f"  BROKE     {count}: {what}" for what, count in self.broken.most_common())
        yield f"  remarks   {_listed(self.remarks)}"


def kind_of(data: bytes, name: str) -> str | None:
    """The resource type of a file, `lines` of several, `phenopacket`, or None for what is no patient's record."""
    if b'"resourceType"' in data and not _OF_A_RECORD.search(data):
        return None
    try:
        intake = take_in(data)
        format_ = detect(intake, name)
        document: Any = None if is_lines(intake.text) else intake.document
    except InputError:
        return "no JSON" if b'"resourceType"' in data else None
    if format_ != "fhir" or not isinstance(document, dict):
        return {"fhir": "lines", "phenopacket": format_}.get(format_)
    return document["resourceType"] if document.get("resourceType") in KINDS else None


def _place(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/antangel_cli/" in f.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "elsewhere"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common()) or "none"


def main() -> int:
    """Count the files of each folder; 1 when a reader broke on any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    broke = 0
    for folder in parser.parse_args().folders:
        tally = Tally(folder.name)
        for path in sorted(path for path in folder.rglob("*") if path.suffix in ENDINGS and path.is_file()):
            tally.take(path)
        print("\n".join(tally.lines()), flush=True)
        broke += tally.broken.total()
    return int(bool(broke))


if __name__ == "__main__":
    sys.exit(main())
