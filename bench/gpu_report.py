"""What was measured so far: a JSON that is whole at any time, and lines that say how it goes."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import triton

from bench.gpu_targets import Target
from bench.machine import surroundings
from kernels.gpu.launch import INTERPRETING


class Report:
    """Figures by name, kept in `place` after each of them; nowhere where there is none."""

    def __init__(self, place: Path | None, asked: Mapping[str, Any], seconds: float) -> None:
        self._place = place
        self._started = time.monotonic()
        self._seconds = seconds
        self.content: dict[str, Any] = _surroundings() | {
            "interpreted": INTERPRETING,
            "asked": dict(asked),
            "finished": False,
            "targets": [],
        }

    @property
    def left(self) -> float:
        """Seconds until this command should have ended."""
        return self._seconds - (time.monotonic() - self._started)

    @property
    def failed(self) -> bool:
        return bool(self.content.get("failures"))

    def say(self, line: str) -> None:
        print(f"[{time.monotonic() - self._started:6.1f} s] {line}", file=sys.stderr, flush=True)

    def figure(self, name: str, value: Any) -> None:
        """Sets a figure, or adds to those of a mapping by that name."""
        known = self.content.get(name)
        self.content[name] = known | value if isinstance(known, dict) and isinstance(value, dict) else value
        self.say(f"{name}: {json.dumps(value)}")
        self._write()

    def target(self, target: Target) -> None:
        self.content["targets"].append(target.to_json())
        sign = "at most" if target.at_most else "at least"
        verdict = "met" if target.met else "MISSED"
        self.say(f"target {verdict}: {target.measure}: {target.reached:.4g}, {sign} {target.bound:.4g}")
        self._write()

    def failure(self, what: str) -> None:
        """Something is wrong, and no time counts."""
        self.content.setdefault("failures", []).append(what)
        self.say(f"FAILED: {what}")
        self._write()

    def has_time(self, seconds: float, what: str) -> bool:
        """Whether so much is left for something; else it is noted as skipped."""
        if self.left >= seconds:
            return True
        self.content.setdefault("skipped", []).append(what)
        self.say(f"skipped, {self.left:.0f} s are left: {what}")
        self._write()
        return False

    def finish(self) -> None:
        self.content["seconds"] = round(time.monotonic() - self._started, 1)
        self.content["finished"] = True
        self._write()

    def _write(self) -> None:
        if self._place is None:
            return
        self._place.parent.mkdir(parents=True, exist_ok=True)
        aside = self._place.with_suffix(".new")
        aside.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        os.replace(aside, self._place)


def _surroundings() -> dict[str, Any]:
    try:
        machine = surroundings()
    except OSError:  # No git, or no compiler.
        machine = {"commit": "", "machine": {"architecture": platform.machine(), "cores": os.cpu_count()}}
    machine["commit"] = machine["commit"] or os.environ.get("COMMIT", "")
    return machine | {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "driver": _driver(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
    }


def _driver() -> str | None:
    command = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None
