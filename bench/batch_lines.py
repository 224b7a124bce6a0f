"""Many lines through `antangel batch --dry-run`: how long, and the most memory: `python -m bench.batch_lines`.

The lines are made as they are read, so that no disk is measured. Without `--checks` what a case says is not looked at:
what is left is the batch itself, its reader, its table of ids and its window. Writes bench/results/batch-lines.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import IO

from bench.machine import surroundings
from bench.place import RESULTS, ROOT

RESULT = RESULTS / "batch-lines.json"

CHILD = """
import re, sys
from pathlib import Path
from antangel_cli.app import app
from antangel_cli.batching import starter

class Instant:
    record = {"schema": "antangel.check/1", "status": "valid"}

    @classmethod
    def of(cls, case, accept_implausible):
        return cls()

if "--instant" in sys.argv:
    sys.argv.remove("--instant")
    starter.Checked = Instant
try:
    app()
finally:
    peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
    print(f"peak {peak}", file=sys.stderr)
"""
"""Says the most memory that it had, in KiB: the system's own figure for a child counts what its parent had."""


@dataclass(frozen=True)
class Run:
    """What one run took."""

    checks: bool
    written: int
    seconds: float
    peak_kib: int
    exit_code: int


def cases(count: int) -> Iterator[bytes]:
    """So many cases, each with an id of its own."""
    for i in range(count):
        yield b'{"schema": "antangel.case/1", "id": "c%d", "chief_complaint": "Cough."}\n' % i


def run(chunks: Iterable[bytes], checks: bool = False) -> Run:
    """Feed lines to a batch in a process of its own; its output is counted and let go."""
    started = time.monotonic()
    flags = [] if checks else ["--instant"]
    pipe = subprocess.PIPE
    arguments = [sys.executable, "-c", CHILD, "batch", "-", "--dry-run", "-q", *flags]
    with subprocess.Popen(arguments, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe) as child:
        assert child.stdin
        assert child.stdout
        assert child.stderr
        feeding = threading.Thread(target=_feed, args=(child.stdin, chunks))
        feeding.start()
        written = sum(1 for _ in child.stdout)
        feeding.join()
        said = child.stderr.read().decode().split()
    peak = int(said[said.index("peak") + 1])
    return Run(checks, written, round(time.monotonic() - started, 1), peak, child.returncode)


def _feed(stdin: IO[bytes], chunks: Iterable[bytes]) -> None:
    with stdin:
        stdin.writelines(chunks)


def main() -> None:
    """Measure a thousand lines, which is what the program itself takes, and then all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--checks", action="store_true", help="Run the checks on every case.")
    asked = parser.parse_args()
    runs = [asdict(run(cases(count), asked.checks)) for count in (1000, asked.lines)]
    result = {**surroundings(), "runs": runs}
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(runs, indent=2))


if __name__ == "__main__":
    main()
