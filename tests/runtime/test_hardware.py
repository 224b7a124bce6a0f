"""Memory within a container's limit, allowed cores, and the number type that `auto` means."""

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


@pytest.mark.parametrize(("features", "expected"), [({"avx2"}, torch.float32), ({"avx512_bf16"}, torch.bfloat16)])
def test_auto_is_bfloat16_only_where_that_is_fast(
    monkeypatch: pytest.MonkeyPatch, features: set[str], expected: torch.dtype
) -> None:
    monkeypatch.setattr(hardware, "cpu_features", lambda: frozenset(features))
    assert hardware.number_type("auto", "cpu") == expected
    assert hardware.number_type("auto", "cuda") == torch.bfloat16
    assert hardware.number_type("float32", "cuda") == torch.float32
    assert hardware.number_type("bfloat16", "cpu") == torch.bfloat16
