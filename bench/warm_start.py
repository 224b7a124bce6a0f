"""What a saved routing profile is worth at the start: `python -m bench.warm_start [PACK]`, nano's unless told.

A first process answers prompts, and leaves its profile. Then another prompt is answered by fresh
processes, in turn without the profile and with it, each from an empty cache and with nothing of the pack in the page
cache: the time to the first token, and the rate of those that follow. Writes bench/results/warm-start-NAME.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.apart import budget, measured_apart, messages
from bench.decode import packed_nano
from bench.machine import surroundings
from bench.paging import TRACE
from bench.place import RESULTS
from runtime import EngineConfig, Share, Workload

NEW = 64


def run(model: Path, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Learns a profile, then measures with and without it in turn."""
    skew = TRACE if options.routing == "skewed" else None
    first, *others = messages()[: 1 + options.learn]
    slots = None if options.slots is None else Share(options.slots)
    plain = EngineConfig(ram=options.ram, slots=slots, threads=options.threads, max_sequences=1)
    profile = folder / "profile.json"
    learning = Workload(others, options.prompt, NEW, warm_rounds=len(others) - 1)
    measured_apart(model, replace(plain, profile=profile), learning, skew)
    once = Workload([first], options.prompt, NEW, warm_rounds=0)
    runs: dict[str, list[dict[str, Any]]] = {"without": [], "with": []}
    for _ in range(options.rounds):
        runs["without"].append(_start(measured_apart(model, plain, once, skew)))
        copy = shutil.copy(profile, folder / "copy.json")
        runs["with"].append(_start(measured_apart(model, replace(plain, profile=Path(copy)), once, skew)))
        print(json.dumps({name: each[-1] for name, each in runs.items()}), flush=True)
    asked = {
        "new": NEW,
        "learned": len(others),
        "prompt": options.prompt,
        "routing": options.routing,
        "slots": options.slots,
    }
    medians = {name: _medians(each) for name, each in runs.items()}
    return surroundings() | {"model": model.name, "asked": asked, "median": medians, "runs": runs}


def _start(measured: dict[str, Any]) -> dict[str, Any]:
    cold = measured["cold"]
    return {
        "ttft_s": cold["ttft_s"]["p50"],
        "decode_tok_s": cold["decode_tok_s_mean"],
        "hit_rate": cold["decode"]["hit_rate"],
        "prewarm_bytes": measured["prewarm_bytes"],
    }


def _medians(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {name: statistics.median(run[name] or 0 for run in runs) for name in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, help="a pack")
    parser.add_argument("--name", help="of the result; the pack's unless told")
    parser.add_argument("--ram", type=budget, help="the budget, such as 8GiB")
    parser.add_argument("--slots", type=float, help="a share of all experts")
    parser.add_argument("--routing", default="router", choices=("router", "skewed"))
    parser.add_argument("--prompt", type=int)
    parser.add_argument("--learn", type=int, default=11, help="prompts that the profile is made of")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or packed_nano(Path(folder) / "nano")
        content = run(model, options, Path(folder))
    place = RESULTS / f"warm-start-{options.name or model.name}.json"
    place.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(content["median"], indent=1))


if __name__ == "__main__":
    main()
