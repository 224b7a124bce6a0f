"""Time to first token and decode rate of a model, nano's pack unless told otherwise: `python -m bench.decode [MODEL]`.

Writes one JSON to bench/results/. The first request is cold, the others warm; prefill and decode are kept apart.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from runtime import Engine, EngineConfig, Request, SamplingParams, Stage, write_pack
from runtime.hardware import processor_name

ROOT = Path(__file__).resolve().parent.parent
GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0, ignore_eos=True)


def measure(engine: Engine, prompt_tokens: int, new_tokens: int) -> dict[str, Any]:
    """One request alone: time to first token, and the gaps between the others as a rate at p20, p50 and p80."""
    ids = tuple(1000 + i % 997 for i in range(prompt_tokens))
    started = time.perf_counter()
    times = [time.perf_counter() for _ in engine.generate(Request(ids, (Stage(GREEDY, new_tokens),)))]
    gaps = sorted(b - a for a, b in itertools.pairwise(times))
    cuts = statistics.quantiles(gaps, n=5, method="inclusive")
    return {
        "prompt_tokens": prompt_tokens,
        "new_tokens": len(times),
        "ttft_ms": round((times[0] - started) * 1000, 2),
        "prefill_tok_s": round(prompt_tokens / (times[0] - started), 1),
        "decode_tok_s": {
            "p20": round(1 / cuts[3], 1),
            "p50": round(1 / statistics.median(gaps), 1),
            "p80": round(1 / cuts[0], 1),
        },
    }


def together(engine: Engine, sequences: int, prompt_tokens: int, new_tokens: int) -> dict[str, Any]:
    """Many requests in flight: tokens per second over all of them, prefill included."""
    for i in range(sequences):
        ids = tuple(1000 + (i * 31 + k) % 997 for k in range(prompt_tokens))
        engine.submit(Request(ids, (Stage(GREEDY, new_tokens),)))
    started, count = time.perf_counter(), 0
    while engine.has_work:
        count += len(engine.step())
    return {"sequences": sequences, "new_tok_s": round(count / (time.perf_counter() - started), 1)}


def environment(model: Path) -> dict[str, Any]:
    """What the figures depend on."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "commit": commit.stdout.strip(),
        "model": model.name,
        "device": "cpu",
        "machine": processor_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def packed_nano(place: Path) -> Path:
    """The demonstration model in the default formats."""
    write_pack(ROOT / "nano" / "checkpoint", place)
    return place


def everything(model: Path, threads: int | None) -> dict[str, Any]:
    """Cold, warm and batched figures of one model."""
    started = time.perf_counter()
    engine = Engine.load(model, EngineConfig(threads=threads, share_prefixes=False))
    result = environment(model) | {"kernels": engine.backend}
    result["load_ms"] = round((time.perf_counter() - started) * 1000, 1)
    result["cold"] = measure(engine, 256, 64)
    result["warm"] = [measure(engine, prompt, 128) for prompt in (16, 256, 1024)]
    result["batched"] = [together(engine, n, 256, 64) for n in (1, 4, 8, 16)]
    result["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    engine.close()
    return result


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, help="a pack or a checkpoint")
    parser.add_argument("--threads", type=int)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "bench" / "results" / "decode.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = everything(options.model or packed_nano(Path(folder) / "nano"), options.threads)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
