"""Makes the environment that llama.cpp runs in, apart from ours: `python -m bench.peer.environment`."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

from bench.place import CACHE

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
READY = ".ready"


def peer_python() -> Path:
    """The interpreter that has what requirements.txt pins; compiles it for this machine where it is not there yet."""
    pinned = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    directory = CACHE / "peer" / pinned
    python = directory / "bin" / "python"
    if not (directory / READY).exists():
        print(f"compiling llama.cpp into {directory}: about ten minutes", file=sys.stderr)
        venv.create(directory, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-r", REQUIREMENTS], check=True, stdout=sys.stderr)
        (directory / READY).touch()
    return python


if __name__ == "__main__":
    print(peer_python())
