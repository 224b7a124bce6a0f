"""`antangel doctor` names the kernels of this machine and why it did not get others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from antangel_cli.app import app
from kernels.cpu.variants import best_first


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        app(["doctor", *arguments])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_every_op_has_a_kernel_and_every_better_one_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, "--json"))
    assert set(found["kernels"]) >= {"linear", "experts", "paged_attention", "head"}
    chosen = set(found["kernels"].values())
    assert len(chosen) == 1
    better = [variant.name for variant in best_first]
    name = chosen.pop()
    expected = better[: better.index(name.removeprefix("c++ "))] if name != "torch" else better
    assert [key.removeprefix("c++ ") for key in found["refused"]] == expected
    assert all(found["refused"].values())
    assert found["machine"]["usable_cores"] > 0
    assert found["model"]["name"] == "nano"


def test_the_page_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    page = run(capsys)
    for word in ("Machine", "Kernels in use", "experts", "usable memory GiB", "Model: nano"):
        assert word in page


def test_without_a_compiler_the_reference_runs_and_doctor_says_what_is_missing(tmp_path: Path) -> None:

    environment = os.environ | {"CXX": "/nowhere/g++", "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "antangel_cli", "doctor", "--json"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(result.stdout)
    assert set(found["kernels"].values()) == {"torch"}
    assert "unset CXX, or install it" in found["refused"]["c++ portable"]
