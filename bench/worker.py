"""A contender: a process that is kept loaded, computes when it is asked, and sleeps otherwise."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.place import ROOT

LOG_LINES = 20


class Worker:
    """Speaks JSON lines with a process: it introduces itself where `introduces`, then answers each question."""

    def __init__(self, name: str, command: Sequence[str], log: Path, *, introduces: bool = True) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        self.about: dict[str, Any] = self._answer() if introduces else {}

    def ask(self, measure: str, seed: int) -> list[float]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"measure": measure, "seed": seed}) + "\n")
        self._process.stdin.flush()
        answer: list[float] = self._answer()
        return answer

    def cpu_seconds(self) -> float:
        """Processor time of all its threads so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Ends it by ending its questions."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            tail = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
            raise SystemExit("\n".join([f"{self.name} ended before it answered; its log, {self._log}, ends:", *tail]))
        return json.loads(line)
