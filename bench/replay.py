"""Replays the recorded nano trace under every policy: `python -m bench.replay`.

Writes bench/results/replay.json, the plot docs/replay.svg, and runtime/experts/hit_curve.json, which `antangel plan`
reads: the decode hit rate of the default policy by the share of experts in slots.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from antangel_cli.plot import write_plot
from bench.record_trace import ROOT, TRACE
from runtime.experts.policy import DEFAULT
from runtime.experts.replay import Replay, replay
from runtime.experts.trace import read_trace

SOURCE = "nano over the example cases, English and Chinese, replayed"


def write_json(place: Path, content: dict[str, Any]) -> None:
    """Aside, then renamed."""
    aside = place.with_suffix(".new")
    with aside.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(place)


def expected_hits(found: Replay) -> dict[str, Any]:
    """The curve of the default policy in steps of one token."""
    points = next(curve.points for curve in found.curves if curve.policy == DEFAULT)
    rates = [[point.share, round(point.decode.hit_rate or 0.0, 4)] for point in points]
    return {"source": SOURCE, "policy": DEFAULT, "points": rates}


def main() -> None:
    """Replay and write."""
    found = replay(read_trace(TRACE))
    record = {"trace": str(TRACE.relative_to(ROOT)), **found.to_json()}
    write_json(ROOT / "bench" / "results" / "replay.json", record)
    write_json(ROOT / "runtime" / "experts" / "hit_curve.json", expected_hits(found))
    picture = ROOT / "docs" / "replay.svg"
    write_plot(record, str(picture), force=True)
    picture.chmod(0o644)
    print(json.dumps(expected_hits(found)))


if __name__ == "__main__":
    main()
