"""Ours and llama.cpp side by side: `python -m bench.speed`. Writes bench/results/speed.json and docs/performance.md.

All are loaded once and stay; in every round each runs every measure alone, in an order that turns, with the bandwidth
read in between. Needs about 12 GB of disk in the user's cache, and 16 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import table
from bench.contenders import BANDWIDTH, DEFAULT, OURS, PEER, PEER_SETTINGS, Contenders, PeerSettings
from bench.figures import (
    TIMES_BATCH,
    TIMES_PREFILL,
    Quantiles,
    Rounds,
    Target,
    decode_targets,
    measure_json,
    ratios,
    shares,
)
from bench.machine import busy_cores, surroundings
from bench.peer.environment import peer_python
from bench.place import RESULTS, SHAPE
from bench.worker import Worker
from bench.workload import MEASURES
from runtime.hardware import usable_cores

RESULT = RESULTS / "speed.json"
RUNNERS = (OURS, DEFAULT, PEER)

# After each turn: longer than OpenMP's threads go on spinning.
PAUSE_S = 0.3


class Turns:
    """Lets one worker compute at a time, and notes what the others used meanwhile."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self.used_waiting = 0.0

    def run(self, worker: Worker, measure: str, seed: int) -> list[float]:
        time.sleep(PAUSE_S)
        others = [other for other in self._workers if other is not worker]
        before, started = _cpu_seconds(others), time.perf_counter()
        answer = worker.ask(measure, seed)
        used = (_cpu_seconds(others) - before) / (time.perf_counter() - started)
        self.used_waiting = max(self.used_waiting, used)
        return answer

    def round(self, measure: str, number: int) -> dict[str, list[float]]:
        """Every worker once, each round beginning with the next."""
        first = number % len(self._workers)
        return {
            worker.name: self.run(worker, measure, number + 1)
            for worker in (*self._workers[first:], *self._workers[:first])
        }


def _cpu_seconds(workers: Sequence[Worker]) -> float:
    return sum(worker.cpu_seconds() for worker in workers)


def try_settings(contenders: Contenders) -> list[dict[str, Any]]:
    """What llama.cpp reaches with each of its settings, tokens per second of each measure; the best overall first."""
    tried: list[dict[str, Any]] = []
    for settings in PEER_SETTINGS:
        worker = contenders.peer(settings)
        rates = {m.name: m.tokens_per_step / statistics.median(worker.ask(m.name, 1)) for m in MEASURES}
        worker.close()
        say(f"llama.cpp, {settings}: {_in_words(rates)}")
        tried.append({"mmap": settings.mmap, "repack": settings.repack, "tokens_per_s": rates})
    return sorted(tried, key=lambda each: -statistics.geometric_mean(each["tokens_per_s"].values()))


def compete(workers: Sequence[Worker], count: int) -> tuple[dict[str, Rounds], float]:
    """The rounds of each measure, and the most of a core that waiting workers used together."""
    turns = Turns(workers)
    rounds: dict[str, list[dict[str, list[float]]]] = {measure.name: [] for measure in MEASURES}
    for number in range(count):
        for measure in MEASURES:
            rounds[measure.name].append(turns.round(measure.name, number))
            last = rounds[measure.name][-1]
            rates = {name: measure.tokens_per_step / statistics.median(last[name]) for name in RUNNERS}
            say(
                f"round {number + 1}, {measure.name}: {_in_words(rates)}; {statistics.median(last[BANDWIDTH]):.1f} GB/s"
            )
    return dict(rounds), turns.used_waiting


def result(about: dict[str, Any], rounds: dict[str, Rounds]) -> dict[str, Any]:
    """Everything that is known after the last round."""
    bandwidth = [[statistics.median(each[BANDWIDTH]) for each in of_measure] for of_measure in rounds.values()]
    by_round = dict(zip(rounds, bandwidth, strict=True))["decode"]
    share = {
        name: shares(rounds["decode"], name, about["contenders"][name]["bytes_per_token"], by_round)
        for name in (OURS, DEFAULT)
    }
    return about | {
        "bandwidth_gb_per_s": Quantiles.of(rate for rates in bandwidth for rate in rates).to_json(),
        "measures": {
            m.name: measure_json(rounds[m.name], m.tokens_per_step, RUNNERS, PEER) for m in MEASURES
        },
        "decode_share_of_bandwidth": {name: Quantiles.of(each).to_json() for name, each in share.items()},
        "targets": [target.to_json() for target in targets(rounds, statistics.median(share[OURS]))],
    }  # fmt: skip


def targets(rounds: dict[str, Rounds], share: float) -> list[Target]:
    """Of the row in which every matrix has 4 bits, as llama.cpp's have."""
    times = {name: statistics.median(ratios(of_measure, OURS, PEER)) for name, of_measure in rounds.items()}
    fixed = (("prefill 512", TIMES_PREFILL), ("decode batch 8", TIMES_BATCH))
    return [
        *decode_targets(times["decode"], share),
        *(Target(name, f"{wanted:g} times llama.cpp", wanted, times[name]) for name, wanted in fixed),
    ]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _in_words(rates: dict[str, float]) -> str:
    return ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items()) + " tokens/s"


def run(options: argparse.Namespace) -> dict[str, Any]:
    contenders = Contenders(options.shape, options.threads, options.peer_python or peer_python())
    contenders.make_files()
    about = surroundings() | {"rounds": options.rounds, "threads": options.threads}
    about["busy_cores_before"] = busy_cores()
    if about["busy_cores_before"] > table.BUSY and not options.busy:
        raise SystemExit(
            f"other processes keep {about['busy_cores_before']:.2f} cores at work, and llama.cpp, whose threads wait "
            "for each other by spinning, would lose several times over: stop them, or say --busy to run all the same"
        )
    tried = try_settings(contenders) if options.try_settings else []
    settings = PeerSettings(tried[0]["mmap"], tried[0]["repack"]) if tried else PEER_SETTINGS[0]
    workers = [contenders.ours(OURS), contenders.peer(settings), contenders.ours(DEFAULT), contenders.bandwidth()]
    about |= {
        "shape": json.loads(options.shape.read_text(encoding="utf-8")),
        "contenders": {worker.name: worker.about for worker in workers if worker.about},
        "peer_settings_tried": tried,
    }
    rounds, used_waiting = compete(workers, options.rounds)
    for worker in workers:
        worker.close()
    about |= {"cores_used_while_waiting": round(used_waiting, 3), "busy_cores_after": busy_cores()}
    return result(about, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--shape", type=Path, default=SHAPE, help="a config.json")
    parser.add_argument("--peer-python", type=Path, help="an interpreter with llama-cpp-python and gguf")
    parser.add_argument("--no-try-settings", dest="try_settings", action="store_false", help="mmap and repack are on")
    parser.add_argument("--busy", action="store_true", help="run on a busy machine too, whose figures compare nothing")
    parser.add_argument("-o", "--output", type=Path, default=RESULT)
    options = parser.parse_args()
    content = run(options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(table.render(content))
    if options.output == RESULT:
        table.write(content)


if __name__ == "__main__":
    main()
