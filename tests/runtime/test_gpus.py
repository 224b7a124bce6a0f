"""Each GPU is examined, and none is a reason to fail."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kernels.gpu import probe
from runtime.examination import gpus
from runtime.examination.gpus import AGREES, examine_gpus, summary

REASON = "this GPU computes other bits in linear: w8a8:64, 1 row: 3 of 80 numbers"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Three GPUs: one that agrees, one that doesn't, one that does not answer."""

    def properties(index: int) -> SimpleNamespace:
        if index == 2:
            raise RuntimeError("CUDA error: the launch timed out\nCUDA kernel errors might be reported later")
        return SimpleNamespace(name=f"GPU {index}", major=8, minor=6 + index)

    def capability(device: torch.device) -> tuple[int, int]:
        found = properties(device.index)
        return found.major, found.minor

    (tmp_path / "version").write_text("570.86.15\n")
    monkeypatch.setattr(gpus, "DRIVER_VERSION", tmp_path / "version")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (20 << 30, 24 << 30))
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(probe, "_findings", {})
    monkeypatch.setattr(probe, "disagreement", examined)


def examined(device: torch.device, announce: probe.Announce | None) -> str | None:
    if announce is not None:
        announce(f"examining {device}")
    return REASON if device.index else None


@pytest.mark.usefixtures("machine")
def test_what_each_gpu_is_and_gets() -> None:
    heard: list[str] = []
    good, bad, lost = examine_gpus(heard.append)
    assert (good["device"], good["name"], good["compute_capability"]) == ("cuda:0", "GPU 0", "8.6")
    assert (good["memory"], good["memory_free"]) == (24 << 30, 20 << 30)
    assert (good["driver"], good["cuda"]) == ("570.86.15", "12.8")
    assert (good["agrees"], good["examination"]) == (True, AGREES)
    assert set(good["kernels"].values()) == {"triton"}
    assert "triton" not in good["refused"]
    assert (bad["agrees"], bad["examination"], bad["refused"]["triton"]) == (False, REASON, REASON)
    assert set(bad["kernels"].values()) == {"torch"}
    assert lost["problem"] == "CUDA error: the launch timed out"
    assert lost["agrees"] is False
    assert lost["examination"].startswith("the GPU does not answer: CUDA error: the launch timed out: check")
    assert heard == ["examining cuda:0", "examining cuda:1"]
    assert summary([good, bad, lost]) == "GPU 0, GPU 1, a GPU that does not answer"


def test_a_driver_that_does_not_say_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "DRIVER_VERSION", tmp_path / "nothing")
    assert gpus._versions()["driver"] == "unknown"


@pytest.mark.parametrize(("cuda", "words"), [(None, "is no build for CUDA"), ("12.8", "check that nvidia-smi")])
def test_no_gpu_is_one_line(cuda: str | None, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    line = summary([])
    assert line.startswith("none")
    assert words in line
    assert "\n" not in line
