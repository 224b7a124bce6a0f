"""How fast this machine reads memory: `python -m bench.bandwidth`. Compiles bandwidth.cpp for it where needed."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from bench.place import FILES
from runtime.hardware import processor_name, usable_cores

SOURCE = Path(__file__).with_name("bandwidth.cpp")
FLAGS = ("-std=c++20", "-O3", "-march=native", "-pthread")
BYTES = 2 << 30


def bandwidth_command(threads: int) -> list[str]:
    """The command of a reader, compiled from the source for this processor."""
    compiler = os.environ.get("CXX", "g++")
    key = "\n".join((compiler, *FLAGS, processor_name(), SOURCE.read_text(encoding="utf-8")))
    program = FILES / f"bandwidth-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if not program.exists():
        FILES.mkdir(parents=True, exist_ok=True)
        subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(program)], check=True)
    return [str(program), str(threads), str(BYTES)]


def main() -> None:
    command = bandwidth_command(usable_cores())
    subprocess.run(command, input=b"\n" * 5, check=True)


if __name__ == "__main__":
    main()
