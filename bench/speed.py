"""Ours and llama.cpp side by side: `python -m bench.speed`. Writes bench/results/speed.json and docs/performance.md.

All are loaded once and stay; in every round each runs every measure alone, in an order that turns, with the bandwidth
read in between. Needs 12 GB of disk in the user's cache, and 20 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import table
from bench.contenders import BANDWIDTH, DEFAULT, OURS, PEER, Contenders
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
from bench.peer_settings import PeerSettings, Rates, Tried, best_settings, try_all
from bench.place import SHAPE
from bench.turns import Turns
from bench.workload import MEASURES
from runtime.hardware import usable_cores

RUNNERS = (OURS, DEFAULT, PEER)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Makes what is missing, then competes."""
    contenders = Contenders(options.shape, options.threads, options.peer_python or peer_python())
    contenders.make_files()
    about = surroundings() | {"rounds": options.rounds, "threads": options.threads}
    about["busy_cores_before"] = _require_quiet(options.busy)
    tried = try_all(contenders.peer, lambda each: say(f"llama.cpp, {each.settings}: {_in_words(each.rates)}"))
    rounds, seen = compete(contenders, best_settings(tried), options.rounds)
    about |= {"shape": json.loads(options.shape.read_text(encoding="utf-8")), "busy_cores_after": busy_cores()}
    return result(about | seen | {"peer_settings_tried": _tried_json(tried)}, rounds)


def _require_quiet(allow_busy: bool) -> float:
    busy = busy_cores()
    if busy > table.BUSY and not allow_busy:
        raise SystemExit(
            f"other processes keep {busy:.2f} cores at work, and llama.cpp, whose threads wait for each other by "
            "spinning, would lose several times over: stop them, or say --busy to run all the same"
        )
    return busy


def compete(
    contenders: Contenders, settings: Mapping[str, PeerSettings], count: int
) -> tuple[dict[str, Rounds], dict[str, Any]]:
    """The rounds of each measure; and who competed, and how much they used while they waited."""
    peers = {each: contenders.peer(each) for each in dict.fromkeys(settings.values())}
    ours, default, reader = contenders.ours(OURS), contenders.ours(DEFAULT), contenders.bandwidth()
    workers = [ours, default, reader, *peers.values()]
    turns = Turns(workers, {measure: (ours, peers[each], default, reader) for measure, each in settings.items()})
    rounds = _rounds(turns, count)
    for worker in workers:
        worker.close()
    return rounds, {
        "contenders": {worker.name: worker.about for worker in workers if worker.about},
        "peer_settings": {measure: str(each) for measure, each in settings.items()},
        "cores_used_while_waiting": round(turns.cores_used_waiting, 3),
    }


def _rounds(turns: Turns, count: int) -> dict[str, Rounds]:
    rounds: dict[str, list[dict[str, list[float]]]] = {measure.name: [] for measure in MEASURES}
    for number in range(count):
        for measure in MEASURES:
            taken = turns.round(measure.name, number)
            rates = {name: measure.tokens_per_step / statistics.median(taken[name]) for name in RUNNERS}
            gigabytes = statistics.median(taken[BANDWIDTH])
            say(f"round {number + 1}, {measure.name}: {_in_words(rates)}; {gigabytes:.1f} GB/s")
            rounds[measure.name].append(taken)
    return dict(rounds)


def result(about: dict[str, Any], rounds: Mapping[str, Rounds]) -> dict[str, Any]:
    """Everything that is known after the last round."""
    gigabytes = {name: [statistics.median(each[BANDWIDTH]) for each in of] for name, of in rounds.items()}
    share = {
        name: shares(rounds["decode"], name, about["contenders"][name]["bytes_per_token"], gigabytes["decode"])
        for name in (OURS, DEFAULT)
    }
    return about | {
        "bandwidth_gb_per_s": Quantiles.of(rate for each in gigabytes.values() for rate in each).to_json(),
        "measures": {m.name: measure_json(rounds[m.name], m.tokens_per_step, RUNNERS, PEER) for m in MEASURES},
        "decode_share_of_bandwidth": {name: Quantiles.of(each).to_json() for name, each in share.items()},
        "targets": [target.to_json() for target in targets(rounds, statistics.median(share[OURS]))],
    }


def targets(rounds: Mapping[str, Rounds], share: float) -> list[Target]:
    """Of the row in which every matrix has 4 bits, as llama.cpp's have."""
    times = {name: statistics.median(ratios(of_measure, OURS, PEER)) for name, of_measure in rounds.items()}
    fixed = (("prefill 512", TIMES_PREFILL), ("decode batch 8", TIMES_BATCH))
    return [
        *decode_targets(times["decode"], share),
        *(Target(name, f"{wanted:g} times llama.cpp", wanted, times[name]) for name, wanted in fixed),
    ]


def _tried_json(tried: list[Tried]) -> list[dict[str, Any]]:
    return [{"settings": str(each.settings), "tokens_per_s": dict(each.rates)} for each in tried]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _in_words(rates: Rates) -> str:
    return ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items()) + " tokens/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--shape", type=Path, default=SHAPE, help="a config.json")
    parser.add_argument("--peer-python", type=Path, help="an interpreter with llama-cpp-python and gguf")
    parser.add_argument("--busy", action="store_true", help="run on a busy machine too, whose figures compare nothing")
    parser.add_argument("-o", "--output", type=Path, default=table.RESULT)
    options = parser.parse_args()
    content = run(options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(table.render(content))
    if options.output == table.RESULT:
        table.write(content)


if __name__ == "__main__":
    main()
