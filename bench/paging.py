"""Hit rate and speed for each number of slots and each policy: `python -m bench.paging [PACK]`, nano's unless told.

Each is measured in a process of its own, which begins with an empty cache. Writes bench/results/paging-NAME.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.apart import budget, measured_apart, messages
from bench.decode import packed_nano
from bench.machine import surroundings
from bench.place import RESULTS, ROOT
from runtime import EngineConfig, Share, Workload
from runtime.experts.policy import POLICIES

SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)
TRACE = ROOT / "bench" / "traces" / "nano-cases.jsonl.gz"


def run(model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Every cell of the table."""
    workload = Workload(messages(), options.prompt, options.new, options.batch, options.rounds)
    asked = {name: getattr(options, name) for name in ("prompt", "new", "batch", "rounds", "routing", "lookahead")}
    return surroundings() | {"model": model.name, "asked": asked, "cells": list(_cells(model, options, workload))}


def _cells(model: Path, options: argparse.Namespace, workload: Workload) -> Iterator[dict[str, Any]]:
    skew = TRACE if options.routing == "skewed" else None
    for share in options.slots:
        for policy in options.policies:
            config = EngineConfig(
                ram=options.ram,
                slots=Share(share),
                policy=policy,
                lookahead=options.lookahead,
                threads=options.threads,
                max_sequences=options.batch,
            )
            cell = _cell(share, policy, measured_apart(model, config, workload, skew))
            print(json.dumps(cell), flush=True)
            yield cell


def _cell(share: float, policy: str, measured: dict[str, Any]) -> dict[str, Any]:
    warm, memory = measured["warm"], measured["memory"]
    return {
        "share": share,
        "slots": memory["slots"],
        "policy": policy,
        "hit_rate": warm["decode"]["hit_rate"],
        "decode_tok_s": warm["decode_tok_s"],
        "decode_tok_s_mean": warm["decode_tok_s_mean"],
        "prefill_tok_s": warm["prefill_tok_s"],
        "ttft_s": warm["ttft_s"],
        "decode_counts": warm["decode"]["counts"],
        "share_of_disk_rate": warm["decode"]["share_of_disk_rate"],
        "cold_ttft_s": measured["cold"]["ttft_s"],
        "peak": memory["peak"],
        "budget": memory["budget"],
    }


def render(content: dict[str, Any]) -> str:
    """Policies down, shares across: hit rate, and tokens per second of decoding."""
    shares = sorted({cell["share"] for cell in content["cells"]})
    found = {(cell["policy"], cell["share"]): cell for cell in content["cells"]}
    lines = ["| policy | " + " | ".join(f"{share:.0%}" for share in shares) + " |", "|---" * (len(shares) + 1) + "|"]
    for policy in dict.fromkeys(cell["policy"] for cell in content["cells"]):
        cells = [found[policy, share] for share in shares if (policy, share) in found]
        lines.append(f"| {policy} | " + " | ".join(map(_shown, cells)) + " |")
    return "\n".join(lines)


def _shown(cell: dict[str, Any]) -> str:
    return f"{cell['hit_rate']:.1%}, {cell['decode_tok_s_mean']:.3g}/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, help="a pack")
    parser.add_argument("--name", help="of the result; the pack's unless told")
    parser.add_argument("--ram", type=budget, help="the budget, such as 8GiB")
    parser.add_argument("--slots", type=float, nargs="+", default=SHARES, help="shares of all experts")
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--lookahead", default="auto", choices=("auto", "on", "off"))
    parser.add_argument("--routing", default="router", choices=("router", "skewed"))
    parser.add_argument("--prompt", type=int)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="warm ones")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or packed_nano(Path(folder) / "nano")
        content = run(model, options)
    place = RESULTS / f"paging-{options.name or model.name}.json"
    place.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(render(content))


if __name__ == "__main__":
    main()
