"""Replays the recorded nano trace under every policy: `python -m bench.replay`.

Writes bench/results/replay.json, the plot docs/replay.svg, and runtime/experts/hit_curve.json, which `antangel plan`
reads: the decode hit rate of the default policy by the share of experts in slots, for nano and for the family's large
models, whose routing is drawn with nano's skew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from antangel_cli.plot import write_plot
from bench.record_trace import ROOT, TRACE
from runtime.experts.policy import DEFAULT
from runtime.experts.replay import Replay, replay
from runtime.experts.skew import SkewedRouting
from runtime.experts.trace import Trace, read_trace

NANO = "nano over the example cases, English and Chinese, replayed"
DRAWN = "routing of 256 experts, 8 a token, drawn with the skew of nano's over the example cases, replayed"

# What is drawn: layers are alike, so a few are enough, and tokens until the cache has long been warm.
LAYERS, EXPERTS, EXPERTS_PER_TOKEN, TOKENS = 8, 256, 8, 600


def write_json(place: Path, content: dict[str, Any]) -> None:
    """Aside, then renamed."""
    aside = place.with_suffix(".new")
    with aside.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(place)


def expected_hits(found: Replay, trace: Trace, source: str) -> dict[str, Any]:
    """The curve of the default policy in steps of one token."""
    points = next(curve.points for curve in found.curves if curve.policy == DEFAULT)
    rates = [[point.share, round(point.decode.hit_rate or 0.0, 4)] for point in points]
    shape = {"experts": trace.experts, "experts_per_token": trace.experts_per_token}
    return {**shape, "source": source, "policy": DEFAULT, "points": rates}


def drawn(trace: Trace) -> Trace:
    """A trace of a large model's shape with the skew of another one."""
    source = SkewedRouting.fit(trace).source(LAYERS, EXPERTS, EXPERTS_PER_TOKEN, first_layer=0, seed=0)
    row = torch.zeros(1, EXPERTS_PER_TOKEN, dtype=torch.int64)
    steps = [np.stack([source(layer, row).numpy() for layer in range(LAYERS)]).astype(np.int16) for _ in range(TOKENS)]
    return Trace(0, LAYERS, EXPERTS, EXPERTS_PER_TOKEN, tuple(steps))


def main() -> None:
    """Replay and write."""
    trace = read_trace(TRACE)
    found, large = replay(trace), drawn(trace)
    record = {"trace": str(TRACE.relative_to(ROOT)), **found.to_json()}
    write_json(ROOT / "bench" / "results" / "replay.json", record)
    curves = [expected_hits(found, trace, NANO), expected_hits(replay(large, policies=[DEFAULT]), large, DRAWN)]
    write_json(ROOT / "runtime" / "experts" / "hit_curve.json", {"curves": curves})
    picture = ROOT / "docs" / "replay.svg"
    write_plot(record, str(picture), force=True)
    picture.chmod(0o644)
    print(json.dumps(curves))


if __name__ == "__main__":
    main()
