"""On a CPU everything runs where triton is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

# An import of what is None here raises ImportError.
HIDE = 'import sys; sys.modules["triton"] = None\n'


def ran(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["kernels.registry", "kernels.gpu", "runtime.engine", "runtime.examination.doctor"])
def test_it_is_imported(module: str) -> None:
    done = ran(f"{HIDE}import antangel_cli, {module}")
    assert done.returncode == 0, done.stderr


def test_doctor_runs() -> None:
    done = ran(f'{HIDE}sys.argv = ["antangel", "doctor"]\nfrom antangel_cli.app import main\nmain()')
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_engine_does_not_load_triton() -> None:
    done = ran('import sys, antangel_cli, runtime.engine, kernels.registry; sys.exit("triton" in sys.modules)')
    assert done.returncode == 0, "it takes half a second to import"
