"""A batch is killed at random moments and gone on with, until it ends: `python -m bench.killing`.

Each trial runs `antangel batch -o out.jsonl --resume` in a process of its own, kills it (SIGKILL) at a moment drawn
from the time that a whole run takes, goes on, kills again, and in the end lets it finish. The output must then equal,
line for line, that of a run that nobody disturbed, and the audit log must be sound. Among the lines are some that are
no case, and cases that fail in every run but the last, so that errors are retried and lines put in order.
Writes bench/results/killing.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antangel_cli.clinic.equality import canonical
from bench.machine import surroundings
from bench.place import RESULTS, ROOT

RESULT = RESULTS / "killing.json"
FAILING = "FAILING"
"""Set while the cases that fail now and then are to fail."""
ENDED = "ended before"

SCRIPTED = """
import os, time
from antangel_cli import load
from antangel_cli.app import main
from tests.cli.scripted import Scripted, answer_well

def script(task):
    text, answer = answer_well(task)
    return text, "{}" if "unwell" in task.turns[-1].content and "FAILING" in os.environ else answer

def opened(*_, **__):
    model = Scripted(script)
    model.on_step = lambda step: time.sleep(0.01)
    return model

load.open_model = opened
main()
"""


@dataclass(frozen=True)
class Program:
    """The command that is killed: with a scripted model, or with the demonstration model."""

    nano: bool
    concurrency: int = 4

    def start(self, folder: Path, failing: bool) -> subprocess.Popen[bytes]:
        """A run in `folder`, that keeps its key, its log and its output there."""
        homes = {f"XDG_{use}_HOME": str(folder / use.lower()) for use in ("STATE", "CONFIG", "DATA")}
        environment = os.environ | homes | ({FAILING: "1"} if failing else {})
        program = ["-m", "antangel_cli"] if self.nano else ["-c", SCRIPTED]
        arguments = [
            "batch",
            "in.jsonl",
            "-o",
            "out.jsonl",
            "--resume",
            "--wait",
            "--concurrency",
            str(self.concurrency),
        ]
        with (folder / "err").open("wb") as said:
            return subprocess.Popen(
                [sys.executable, *program, *arguments],
                cwd=folder,
                env=environment | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )


def lines(count: int) -> Iterator[str]:
    """Cases; of every seven one is no JSON, and one makes a scripted model fail now and then."""
    for i in range(count):
        said = "unwell" if i % 7 == 3 else "short of breath"
        case = {
            "schema": "antangel.case/1",
            "id": f"c{i}",
            "narrative": f"Feels {said} for {i + 1} hours, 60 years old.",
        }
        yield "{no case" if i % 7 == 5 else json.dumps(case)


def undisturbed(program: Program, count: int, folder: Path) -> tuple[list[str], float]:
    """The lines of a run to its end, as they are compared, and the seconds it took."""
    _prepare(folder, count)
    started = time.monotonic()
    _finish(program, folder)
    return outline(folder), time.monotonic() - started


def trial(program: Program, count: int, folder: Path, moments: Sequence[float]) -> list[str]:
    """Kill a run after each of these seconds, and finish it; what happened each time."""
    _prepare(folder, count)
    found = [_killed(program, folder, seconds) for seconds in moments]
    _finish(program, folder)
    return found


def outline(folder: Path) -> list[str]:
    """The output, without what differs from run to run."""
    text = (folder / "out.jsonl").read_text(encoding="utf-8")
    return [canonical(_comparable(json.loads(line))) for line in text.splitlines()]


def _comparable(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what the key of the folder makes."""
    made = record.get("provenance")
    return record if made is None else {**record, "provenance": {**made, "input_hmac": None}}


def _prepare(folder: Path, count: int) -> None:
    folder.mkdir()
    (folder / "in.jsonl").write_text("".join(f"{line}\n" for line in lines(count)), encoding="utf-8")


def _finish(program: Program, folder: Path) -> None:
    code = program.start(folder, failing=False).wait(600)
    if code != 6:
        raise SystemExit(f"a run ended with {code}: {(folder / 'err').read_text()}")


def _killed(program: Program, folder: Path, seconds: float) -> str:
    """Kill a run after so long, and say where that found it."""
    running = program.start(folder, failing=True)
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.wait(seconds)
        return ENDED
    running.kill()
    running.wait()
    return _state(folder)


def _state(folder: Path) -> str:
    out = folder / "out.jsonl"
    if not out.exists():
        return "no output yet"
    data = out.read_bytes()
    if not data:
        return "empty output"
    torn = "torn line" if not data.endswith(b"\n") else "whole lines"
    return f"{torn}, rewriting" if any(folder.glob(".out.jsonl.*")) else torn


def sound(folder: Path) -> bool:
    """Whether the audit log is as written."""
    environment = os.environ | {"XDG_STATE_HOME": str(folder / "state")}
    verify = [sys.executable, "-m", "antangel_cli", "audit", "verify", "-q"]
    return subprocess.run(verify, cwd=ROOT, env=environment, capture_output=True, check=False).returncode == 0


def measure(program: Program, kills: int, count: int, seed: int, folder: Path) -> dict[str, Any]:
    """All trials, of one to four kills each."""
    drawing = random.Random(seed)
    wanted, seconds = undisturbed(program, count, folder / "whole")
    found: Counter[str] = Counter()
    wrong, logs, trials = [], 0, 0
    while (killed := found.total() - found[ENDED]) < kills:
        moments = [drawing.uniform(0, seconds) for _ in range(min(drawing.randint(1, 4), kills - killed))]
        here = folder / f"trial-{trials}"
        found.update(trial(program, count, here, moments))
        if outline(here) != wanted:
            wrong.append({"trial": trials, "moments": moments})
        logs += sound(here)
        trials += 1
    return {
        "model": "nano" if program.nano else "scripted",
        "seed": seed,
        "lines": count,
        "undisturbed_s": round(seconds, 2),
        "kills": found.total() - found[ENDED],
        "trials": trials,
        "found_at_the_kill": dict(sorted(found.items())),
        "outputs_equal": trials - len(wrong),
        "audit_logs_sound": logs,
        "wrong": wrong,
    }


def main() -> int:
    """Kill, compare, and write what came of it; 1 if an output or a log was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--lines", type=int, default=40)
    parser.add_argument("--seed", type=int, default=20261128)
    parser.add_argument("--nano", action="store_true", help="The demonstration model instead of a scripted one.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="killing-") as folder:
        program = Program(asked.nano)
        measured = measure(program, asked.kills, asked.lines, asked.seed, Path(folder))
    runs = json.loads(RESULT.read_text(encoding="utf-8"))["runs"] if RESULT.exists() else []
    runs = [run for run in runs if run["model"] != measured["model"]]
    RESULT.write_text(json.dumps({**surroundings(), "runs": [*runs, measured]}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(measured, indent=2))
    return int(bool(measured["wrong"]) or measured["audit_logs_sound"] != measured["trials"])


if __name__ == "__main__":
    sys.exit(main())
