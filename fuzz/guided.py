"""Inputs led by coverage, with atheris where it is installed: bytes that reach new lines of a reader are kept and grown.

`python -m fuzz.guided NAME -runs=N CORPUS` is one process of libFuzzer, which never returns; `executed` starts it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz import seeds

READ = ("text", "case", "fhir", "phenopacket")
"""The targets that bytes are grown for."""
LONGEST = 4096
_COUNT = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_COVERED = re.compile(r"cov: (\d+)")


def installed() -> bool:
    """Whether atheris is there."""
    return importlib.util.find_spec("atheris") is not None


def executed(name: str, count: int, seed: int, where: Path) -> dict[str, Any]:
    """Run so many inputs; how many ran, the branches reached, and what failed. A failing input is left in `where`."""
    with tempfile.TemporaryDirectory() as corpus:
        for number, document in enumerate(_documents(name)):
            (Path(corpus) / str(number)).write_bytes(document)
        where.mkdir(exist_ok=True)
        flags = [f"-runs={count}", f"-seed={seed + 1}", f"-max_len={LONGEST}", "-print_final_stats=1", "-timeout=10"]
        command = [
            sys.executable,
            "-m",
            "fuzz.guided",
            name,
            *flags,
            f"-artifact_prefix={where}/{name}-guided-",
            corpus,
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env={**os.environ}, check=False
        )
    counts, covered = _COUNT.findall(done.stderr), _COVERED.findall(done.stderr)
    failed = None if done.returncode == 0 else _failure(done.stdout + done.stderr)
    return {
        "inputs": int(counts[-1]) if counts else 0,
        "branches": int(covered[-1]) if covered else 0,
        "failed": failed,
    }


def _documents(name: str) -> list[bytes]:
    trees = {"case": seeds.cases(), "fhir": seeds.bundles()[2:], "phenopacket": seeds.PACKETS}.get(name)
    if trees is None:
        return [str(case.get("narrative") or case.get("chief_complaint") or "pain").encode() for case in seeds.cases()]
    return [json.dumps(tree, ensure_ascii=False).encode() for tree in trees]


def _failure(output: str) -> str:
    """The last line of a traceback, by its type alone."""
    found = re.findall(
        r"^(?:=== Uncaught Python exception: ===\s*)?(\w+(?:\.\w+)*(?:Error|Exception|TooSlow)\b)", output, re.M
    )
    return found[-1] if found else "ended early"


def main() -> None:
    """Be libFuzzer's process for one target."""
    import atheris

    with atheris.instrument_imports(include=["antangel_cli.clinic"]):
        from fuzz.targets import TARGETS
    run: Callable[[bytes], None] = next(target.run for target in TARGETS if target.name == sys.argv[1])
    atheris.Setup([sys.argv[0], *sys.argv[2:]], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
