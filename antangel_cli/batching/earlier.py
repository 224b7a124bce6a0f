"""The lines that an earlier run has written: which results there are, and which lines are still needed."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from antangel_cli.batching.fingerprint import Fingerprint, Fingerprints
from antangel_cli.batching.ids import Ids
from antangel_cli.clinic.result import SCHEMA_ID
from antangel_cli.errors import UsageError

BEGINNINGS = (f'{{"schema": "{SCHEMA_ID}"'.encode(), b'{"id": "batch_req_')
"""How every line of a batch's output begins; a torn one begins like the beginning of one of them."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """A result of an earlier run, and where its line begins."""

    record: Record = field(repr=False)
    offset: int


class Earlier:
    """The lines of an output file, in 17 bytes each, and 32 to 48 more for its id.

    `end` is where the last whole line ends: what follows was being written when the run was killed. Raises UsageError
    where a line is no output of a batch, or a result was made with other settings.
    """

    def __init__(self, file: BinaryIO, place: str, prints: Fingerprints) -> None:
        self._file = file
        self._place = place
        self._prints = prints
        self._ids = Ids()
        self._offsets = array("Q")
        self._lines = array("Q")
        self._settled = bytearray()
        self._done = bytearray()
        self.end = 0
        self._read()

    def __len__(self) -> int:
        return len(self._offsets)

    def take(self, name: str, wanted: Fingerprint) -> Found | None:
        """The result of an id, if it is of this very input; what else there is of the id is no longer needed."""
        entry = self.drop(name)
        if entry is None or not self._done[entry]:
            return None
        self._file.seek(self._offsets[entry])
        record = json.loads(self._file.readline())
        return Found(record, self._offsets[entry]) if record["fingerprint"] == wanted else None

    def drop(self, name: str) -> int | None:
        """Take note that an id has come; the number of its line here, if there is one."""
        entry = self._ids.get(name)
        if entry is not None:
            self._settled[entry] = True
        return entry

    def left(self, reached: int | None) -> Iterator[int]:
        """Where the lines begin that are still needed after input line `reached` was dealt with (None: all were).

        Errors of input lines up to there are not; results of cases that did not come are.
        """
        for entry, offset in enumerate(self._offsets):
            line = self._lines[entry]
            over = line and (reached is None or line <= reached)
            failed_for_good = reached is None and not self._done[entry]
            if not (self._settled[entry] or over or failed_for_good):
                yield offset

    def _read(self) -> None:
        self._file.seek(0)
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                self._require_torn(line, number)
                break
            self._add(self._parsed(line, number), number)
            self.end += len(line)

    def _add(self, record: Record, number: int) -> None:
        entry, done = len(self._offsets), succeeded(record)
        if done and (changed := self._prints.changed(record)):
            raise UsageError(
                f"Line {number} of {self._place} was made with other settings: {', '.join(changed)}.",
                "Run with those settings, or write to another file.",
                code="mixed_fingerprints",
            )
        self._offsets.append(self.end)
        self._lines.append(record.get("line") or 0)
        self._done.append(done)
        self._settled.append(False)
        if "line" not in record:
            self._index(_id(record), entry)

    def _index(self, name: str, entry: int) -> None:
        """Of several lines of one id the last result counts, and an error only where there is none."""
        other = self._ids.get(name)
        if other is None or self._done[entry] or not self._done[other]:
            self._ids.put(name, entry)
            loser = other
        else:
            loser = entry
        if loser is not None:
            self._settled[loser] = True

    def _parsed(self, line: bytes, number: int) -> Record:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or not line.startswith(BEGINNINGS):
            raise self._foreign(number)
        if "line" not in record and not isinstance(_id(record), str):
            raise self._foreign(number)
        return record

    def _require_torn(self, tail: bytes, number: int) -> None:
        if not any(tail.startswith(start) or start.startswith(tail) for start in BEGINNINGS):
            raise self._foreign(number)

    def _foreign(self, number: int) -> UsageError:
        return UsageError(
            f"Line {number} of {self._place} is no line that batch wrote.",
            "Name the output of a batch.",
            code="no_output",
        )


def succeeded(record: Mapping[str, Any]) -> bool:
    """Whether a line of output is a result: no error in either form."""
    if "response" in record:
        return record.get("error") is None and (record["response"] or {}).get("status_code") == 200
    return record.get("status") != "error"


def _id(record: Mapping[str, Any]) -> Any:
    return record.get("custom_id") if "response" in record else record.get("id")
