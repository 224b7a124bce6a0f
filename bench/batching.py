"""Cases a minute, one at a time and many at once: `python -m bench.batching`. Writes bench/results/batching.json.

`antangel batch` answers the same drawn cases at each concurrency, on the same cores, a process a time. Every round runs
each concurrency once, beginning with the next; figures are medians of the rounds. A run over a line that is no case is
what starting takes, and is taken off. Every run's results must be those of the first, line for line
(clinic/equality.py).

The demonstration model's weights fit a processor's cache, where those of a model that is worth running do not: with it
a batch saves what a step costs whatever its size, and not the reading of weights. `--model` measures another.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antangel_cli.clinic.equality import differences
from bench.figures import Target
from bench.machine import busy_cores, surroundings
from bench.place import RESULTS, ROOT
from nano.corpus import diagnose_example
from nano.world import load_world

RESULT = RESULTS / "batching.json"
CONCURRENCY = (1, 4, 16, 32)
WANTED_TIMES = 3.0
EVERY_LINE_FAILED = 5


@dataclass(frozen=True)
class Run:
    """One `antangel batch`: seconds by the clock and of all cores, from start to end, and what `--stats` said."""

    seconds: float
    cpu_seconds: float
    stats: dict[str, Any]

    def without(self, start: Run) -> Run:
        """The same without what starting takes."""
        return Run(self.seconds - start.seconds, self.cpu_seconds - start.cpu_seconds, self.stats)


def drawn_cases(count: int) -> Iterator[str]:
    """Held-out cases of the demonstration model's world, English and Chinese in turn, as lines of JSON."""
    world = load_world()
    for i in range(count):
        example = diagnose_example(world, 1000 + i // 2, bool(i % 2), held_out=True)
        assert example.case is not None
        content = example.case.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        yield json.dumps({**content, "id": f"drawn-{i}"}, ensure_ascii=False)


def answer(cases: Path, concurrency: int, output: Path, model: Path | None) -> Run:
    """Answers every line, with the demonstration model if none is given. Raises RuntimeError where that fails."""
    homes = {f"XDG_{kind}_HOME": str(output.parent / kind) for kind in ("CONFIG", "STATE", "DATA")}
    command = [sys.executable, "-m", "antangel_cli", "batch", str(cases), "-q", "--stats", "--force"]
    command += ["--concurrency", str(concurrency), "-o", str(output), *(["-m", str(model)] if model else [])]
    before, started = _children_seconds(), time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=os.environ | homes, stderr=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode not in (0, EVERY_LINE_FAILED):
        raise RuntimeError(f"antangel batch ended with {done.returncode}:\n{done.stderr}")
    return Run(seconds, _children_seconds() - before, json.loads(done.stderr.splitlines()[-1]))


def require_same(one: Path, other: Path) -> None:
    """Raises RuntimeError with the places that differ unless both hold equal results, line for line."""
    lines = [[json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] for path in (one, other)]
    if len(lines[0]) != len(lines[1]):
        raise RuntimeError(f"{one.name} has {len(lines[0])} results, and {other.name} {len(lines[1])}")
    for number, (mine, yours) in enumerate(zip(*lines, strict=True), 1):
        if places := differences(mine, yours):
            raise RuntimeError(f"line {number} of {one.name} and {other.name} differs at {', '.join(places)}")


def rounds(
    cases: Sequence[str], concurrency: Sequence[int], count: int, model: Path | None
) -> Iterator[dict[int, Run]]:
    """What each concurrency took, a round at a time."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        full, none, first = here / "cases.jsonl", here / "none.jsonl", here / f"{concurrency[0]}.jsonl"
        full.write_text("\n".join(cases) + "\n", encoding="utf-8")
        none.write_text("no case\n", encoding="utf-8")
        answer(none, 1, here / "none-out.jsonl", model)  # what the first use of a machine compiles and packs
        for number in range(count):
            turn = number % len(concurrency)
            taken: dict[int, Run] = {}
            start = answer(none, 1, here / "none-out.jsonl", model)
            for each in (*concurrency[turn:], *concurrency[:turn]):
                taken[each] = answer(full, each, here / f"{each}.jsonl", model).without(start)
            for each in concurrency[1:]:
                require_same(first, here / f"{each}.jsonl")
            say(number, taken, len(cases))
            yield taken


def say(number: int, taken: Mapping[int, Run], cases: int) -> None:
    rates = ", ".join(f"{each} at once {60 * cases / taken[each].seconds:.0f}" for each in sorted(taken))
    print(f"round {number + 1}, cases/min: {rates}", file=sys.stderr, flush=True)


def side(runs: Sequence[Run], alone: Sequence[Run], cases: int) -> dict[str, Any]:
    """The medians of a concurrency's runs, beside those of one at a time in the same rounds."""
    middle = statistics.median
    return {
        "cases_per_min": round(60 * cases / middle(run.seconds for run in runs), 2),
        "cpu_s_per_case": round(middle(run.cpu_seconds for run in runs) / cases, 4),
        "times_one_at_a_time": round(middle(a.seconds / b.seconds for a, b in zip(alone, runs, strict=True)), 3),
        "times_in_cpu_time": round(middle(a.cpu_seconds / b.cpu_seconds for a, b in zip(alone, runs, strict=True)), 3),
        "ttft_ms": middle(run.stats["ttft_ms"] for run in runs),
        "seconds_by_round": [round(run.seconds, 3) for run in runs],
        "cpu_seconds_by_round": [round(run.cpu_seconds, 3) for run in runs],
        "stats_of_last": runs[-1].stats,
    }


def result(about: dict[str, Any], all_rounds: Sequence[Mapping[int, Run]], cases: int) -> dict[str, Any]:
    """Every concurrency beside the first, which runs one case at a time."""
    alone = [each[CONCURRENCY[0]] for each in all_rounds]
    sides = {n: side([each[n] for each in all_rounds], alone, cases) for n in CONCURRENCY}
    best = max(CONCURRENCY, key=lambda n: sides[n]["times_one_at_a_time"])
    wanted = Target("batch", "times one case at a time", WANTED_TIMES, sides[best]["times_one_at_a_time"])
    return about | {
        "cases": cases,
        "equal": True,
        "best_concurrency": best,
        "targets": [wanted.to_json()],
        "by_concurrency": {str(n): figures for n, figures in sides.items()},
    }


def main() -> None:
    """Compete and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-m", "--model", type=Path, help="a pack or a checkpoint")
    parser.add_argument("-o", "--output", type=Path, default=RESULT)
    options = parser.parse_args()
    about = surroundings() | {"model": options.model.name if options.model else "nano", "rounds": options.rounds}
    about["busy_cores_before"] = busy_cores()
    all_rounds = list(rounds(list(drawn_cases(options.cases)), CONCURRENCY, options.rounds, options.model))
    content = result(about | {"busy_cores_after": busy_cores()}, all_rounds, options.cases)
    options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({n: each["times_one_at_a_time"] for n, each in content["by_concurrency"].items()}))


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
