"""`python -m fuzz`: so many inputs in all, shared among the targets; counts on stdout, findings beside."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.machine import surroundings
from fuzz.watch import FLOOR, SECONDS, TIMES, Finding, Watch

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "bench" / "results" / "fuzz.json"
KEPT = ROOT / "fuzz" / "findings"


def main() -> int:
    """Run, print, write the result; 1 when anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs in all")
    parser.add_argument("--target", action="append", help="only these targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--guided", type=int, default=0, metavar="N", help="so many more for each reader, led by coverage"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as state:
        os.environ["XDG_STATE_HOME"] = state
        watch, guided = _run(options), _guided(options) if options.guided else {}
    for finding in watch.findings.values():
        _keep(finding)
    report = _report(watch, guided, options.seed)
    if options.target is None:
        RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(_table(report))
    return int(bool(report["findings"] or any(each["failed"] for each in guided.values())))


def _run(options: Any) -> Watch:
    """The same share for every target."""
    from fuzz.drive import drive
    from fuzz.targets import TARGETS

    chosen = [target for target in TARGETS if not options.target or target.name in options.target]
    watch = Watch()
    for target in chosen:
        started = time.monotonic()
        drive(target, watch, -(-options.inputs // len(chosen)), options.seed)
        print(f"{target.name}: {watch.inputs[target.name]} in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return watch


def _guided(options: Any) -> dict[str, Any]:
    """The readers once more, led by coverage; nothing where atheris is not installed."""
    from fuzz.guided import READ, executed, installed

    if not installed():
        print("atheris is not installed: no inputs are led by coverage", file=sys.stderr)
    chosen = [name for name in READ if installed() and (not options.target or name in options.target)]
    return {name: executed(name, options.guided // len(chosen), options.seed, KEPT) for name in chosen}


def _keep(finding: Finding) -> None:
    """The smallest input of a finding, to be made a test."""
    KEPT.mkdir(exist_ok=True)
    name = hashlib.sha256(f"{finding.what}{finding.where}".encode()).hexdigest()[:8]
    (KEPT / f"{finding.target}-{name}").write_bytes(finding.data)


def _report(watch: Watch, guided: dict[str, Any], seed: int) -> dict[str, Any]:
    targets = {
        name: {
            "inputs": count,
            "cpu_s": round(watch.seconds[name], 1),
            "slowest_s": round(watch.slowest[name], 3),
            "largest_bytes": watch.largest[name],
            "memory_times": round(watch.memory[name], 1) if name in watch.memory else None,
        }
        for name, count in watch.inputs.items()
    }
    return {
        "inputs": watch.inputs.total() + sum(each["inputs"] for each in guided.values()),
        "seed": seed,
        **surroundings(),
        "limits": {"cpu_s": SECONDS, "memory_times_input": TIMES, "memory_floor_bytes": FLOOR},
        "targets": targets,
        "guided": guided,
        "findings": [finding.to_json() for finding in watch.findings.values()],
    }


def _table(report: dict[str, Any]) -> str:
    rows = [f"{'target':16} {'inputs':>8} {'cpu s':>8} {'slowest s':>9} {'largest':>9}"]
    for name, each in report["targets"].items():
        rows.append(f"{name:16} {each['inputs']:8} {each['cpu_s']:8} {each['slowest_s']:9} {each['largest_bytes']:9}")
    rows += [
        f"{name:16} {each['inputs']:8} led by coverage, {each['branches']} branches, failed: {each['failed']}"
        for name, each in report["guided"].items()
    ]
    rows.append(f"{report['inputs']} inputs, {len(report['findings'])} findings")
    rows += [
        f"  {each['target']}: {each['what']} at {each['where']}, {each['times']} times" for each in report["findings"]
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
