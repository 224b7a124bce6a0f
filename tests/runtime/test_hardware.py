"""Memory within a container's limit, allowed cores, threads, and the number type that `auto` means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from runtime import hardware


def limit(tmp_path: Path, maximum: str, used: str) -> tuple[str, str]:
    for name, content in (("max", maximum), ("current", used)):
        (tmp_path / name).write_text(content)
    return str(tmp_path / "max"), str(tmp_path / "current")


def test_memory_is_bounded_by_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "CGROUPS", ())
    free = hardware.usable_memory()
    assert free > 1 << 20
    monkeypatch.setattr(hardware, "CGROUPS", (limit(tmp_path, "1048576\n", "48576\n"),))
    assert hardware.usable_memory() == 1_000_000
    monkeypatch.setattr(hardware, "CGROUPS", (limit(tmp_path, "1000\n", "5000\n"),))
    assert hardware.usable_memory() == 0
    monkeypatch.setattr(hardware, "CGROUPS", (limit(tmp_path, "max\n", "5000\n"),))
    assert hardware.usable_memory() > 1 << 20


def test_cores_are_those_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5})
    assert hardware.usable_cores() == 3


def test_auto_is_float32_so_that_a_gpu_gives_the_bits_of_a_cpu() -> None:
    assert hardware.number_type("auto", "cpu") == torch.float32
    assert hardware.number_type("auto", "cuda") == torch.float32
    assert hardware.number_type("float32", "cuda") == torch.float32
    assert hardware.number_type("bfloat16", "cpu") == torch.bfloat16


@pytest.mark.parametrize(("told", "expected"), [("3", 3), ("2,1", 2), ("", 5), ("many", 5), ("0", 5)])
def test_threads_are_as_told_else_one_for_each_core(monkeypatch: pytest.MonkeyPatch, told: str, expected: int) -> None:
    heard: list[int] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(5)))
    monkeypatch.setattr(hardware.cpu, "set_threads", heard.append)
    monkeypatch.setattr(torch, "set_num_threads", heard.append)
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    hardware.set_threads(None)
    hardware.set_threads(7)
    assert heard == [expected, expected, 7, 7]
