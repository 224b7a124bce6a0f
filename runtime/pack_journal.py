"""What of a pack is written already: one line a task, so that packing resumes after any interruption."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kernels.formats import QuantisationError
from runtime.errors import CheckpointError

JOURNAL = "packing.journal"


@dataclass(frozen=True)
class Done:
    """A task's checksum, and what rounding cost it."""

    checksum: str
    error: QuantisationError | None


class Journal:
    """The journal of a directory, locked against a second process. `done` are the tasks of the same pack only."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self._file = path.open("a+", encoding="utf-8")
        self._lock(path)
        self._file.seek(0)
        text = self._file.read()
        owner, *lines = text.split("\n")
        self.started_anew = bool(text) and owner != _hash(identity)
        self.done = {} if self.started_anew else dict(filter(None, map(_parsed, lines)))
        if self.started_anew or not text:
            self._file.truncate(0)
            self._file.write(_hash(identity) + "\n")
        elif not text.endswith("\n"):
            self._file.write("\n")
        self._file.flush()

    def add(self, key: str, done: Done) -> None:
        """Says that a task's bytes are in the file."""
        self.done[key] = done
        self._file.write(_line(key, done))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _lock(self, path: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise CheckpointError(f"another process is packing into {path.parent}", "Let it finish.") from None


def _hash(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _line(key: str, done: Done) -> str:
    error = None if done.error is None else [done.error.squared_error, done.error.squared_norm]
    return json.dumps([key, done.checksum, error]) + "\n"


def _parsed(line: str) -> tuple[str, Done] | None:
    try:
        key, checksum, error = json.loads(line)
        return str(key), Done(str(checksum), None if error is None else QuantisationError(*map(float, error)))
    except (ValueError, TypeError):
        return None
