"""On a GPU, NVIDIA's sanitizer finds nothing in the kernels: no access out of bounds, no race in shared memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
SANITIZER = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")

# Those that launch nothing in their own process.
NOT_KERNELS = ("test_compile.py", "test_sanitizer.py", "test_annotations.py", "test_without_triton.py")

# What the sanitizer ends with where it found something.
FOUND = 99


def smallest(*words: str, before: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    """A run of the smallest tests of every kernel in a process of its own."""
    ignored = [f"--ignore={HERE / name}" for name in NOT_KERNELS]
    command = [*before, sys.executable, "-m", "pytest", "-m", "not gpu", *ignored, *words, str(HERE)]
    return subprocess.run(
        command,
        env=os.environ | {"ANTANGEL_SMALLEST": "1"} | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_of_every_test_the_smallest_is_chosen() -> None:
    done = smallest("--collect-only")
    assert done.returncode == 0, done.stdout
    chosen = [line for line in done.stdout.splitlines() if "::" in line]
    assert any("test_quantise.py::test_quantise[1-32]" in line for line in chosen)
    functions = [line.partition("[")[0] for line in chosen]
    assert len(functions) == len(set(functions))


@pytest.mark.gpu
@pytest.mark.skipif(SANITIZER is None, reason="compute-sanitizer is not installed")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_it_finds_nothing(tool: str) -> None:
    before = (str(SANITIZER), "--tool", tool, "--target-processes", "all", "--error-exitcode", str(FOUND))
    # Without torch's cache of memory every tensor ends where its allocation does.
    done = smallest("-x", before=before, TRITON_INTERPRET="0", PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
