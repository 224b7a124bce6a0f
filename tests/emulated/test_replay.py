"""Kernels of instruction sets that are not here, run by emulators on recorded calls: `make emulate`.

NEON is cross-compiled and run by qemu-user; AVX-512 and AVX-VNNI are compiled over SIMDe. Debian: g++-aarch64-linux-gnu,
qemu-user, libsimde-dev.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from kernels.cpu.build import FLAGS as BUILD_FLAGS
from kernels.cpu.build import SOURCES
from kernels.cpu.variants import best_first
from tests.emulated import cases
from tests.kernels.variants import EMULATED

HERE = Path(__file__).parent
FLAGS = (*(flag for flag in BUILD_FLAGS if flag not in ("-O3", "-fPIC", "-shared")), "-O2", "-static")
THREADS = ("1", "2", "3")


@dataclass(frozen=True)
class Lane:
    """How a variant is compiled and what runs it."""

    name: str
    compiler: str
    flags: tuple[str, ...]
    runner: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        return [tool for tool in (self.compiler, *self.runner[:1]) if shutil.which(tool) is None]


NEON = next(variant for variant in best_first if variant.name == "neon")
LANES = [
    Lane("neon-qemu", "aarch64-linux-gnu-g++", NEON.flags, ("qemu-aarch64", "-cpu", "max")),
    *(Lane(variant.name, "g++", variant.flags[1:]) for variant in EMULATED),
    Lane("portable", "g++", ()),
]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    path = tmp_path_factory.mktemp("cases") / "cases.bin"
    return path, cases.write(path)


@pytest.mark.skipif(not os.environ.get("ANTANGEL_EMULATE"), reason="minutes under an emulator: make emulate")
@pytest.mark.parametrize("lane", LANES, ids=lambda lane: lane.name)
def test_every_recorded_bit_is_the_same(lane: Lane, recorded: tuple[Path, int], tmp_path: Path) -> None:
    if lane.missing():
        pytest.skip(f"not installed: {', '.join(lane.missing())}")
    path, count = recorded
    program = tmp_path / "replay"
    sources = [str(HERE / "replay.cpp"), str(SOURCES / "antangel.cpp")]
    define = f'-DAA_VARIANT="{lane.name}"'
    subprocess.run([lane.compiler, *FLAGS, *lane.flags, define, *sources, "-o", str(program)], check=True)
    result = subprocess.run(
        [*lane.runner, str(program), str(path), *THREADS], capture_output=True, text=True, check=False
    )
    lines = [f"{lane.name}, {n} threads: 0 of {count} cases differ, probe 0" for n in THREADS]
    assert result.stdout.splitlines() == lines, result.stderr
    assert count > 300
