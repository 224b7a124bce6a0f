"""Compiling, keeping and loading the C++ kernels, and everything that can prevent it."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kernels import cpu
from kernels.cpu import abi, build, variants
from kernels.cpu.variants import Variant, best_first, cpu_features
from kernels.registry import implementations

PORTABLE = best_first[-1]

# Stands for the sources where only the building is looked at: quick to compile.
SMALL_SOURCE = """
#define EXPORTED extern "C" __attribute__((visibility("default")))
EXPORTED int aa_probe() { return PROBE; }
static int threads;
EXPORTED void aa_set_threads(int wanted) { threads = wanted; }
EXPORTED int aa_threads() { return threads; }
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Variant:
    """A variant of a source that compiles at once, with a cache of its own."""
    sources = tmp_path / "src"
    sources.mkdir()
    (sources / "antangel.cpp").write_text(SMALL_SOURCE)
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    return Variant("small", ("-DPROBE=0",), frozenset())


def libraries(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "antangel" / "kernels").iterdir())


def test_compiles_once_and_says_so(small: Variant, tmp_path: Path) -> None:
    told: list[str] = []
    assert small.refusal(told.append) is None
    assert len(told) == 1
    assert "small" in told[0]
    again = Variant(small.name, small.flags, small.needs)
    assert again.refusal(told.append) is None
    assert len(told) == 1
    assert len(libraries(tmp_path)) == 1
    folder = tmp_path / "cache" / "antangel" / "kernels"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_is_compiled_anew_for_other_sources_flags_and_compilers(
    small: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert small.refusal() is None
    assert Variant("small", ("-DPROBE=0", "-DMORE"), frozenset()).refusal() is None
    (build.SOURCES / "more.h").write_text("// one more")
    assert Variant("small", ("-DPROBE=0",), frozenset()).refusal() is None
    monkeypatch.setenv("CXX", "g++ -g0")
    assert Variant("small", ("-DPROBE=0",), frozenset()).refusal() is None
    assert len(libraries(tmp_path)) == 4


def test_a_failing_compiler_is_a_refusal(small: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    reason = small.refusal()
    assert reason is not None
    assert "/bin/false failed" in reason
    assert "g++" in reason
    assert libraries(tmp_path) == []
    with pytest.raises(build.BuildError):
        _ = small.library


def test_a_compile_error_is_one_line(small: Variant) -> None:
    (build.SOURCES / "antangel.cpp").write_text("int broken() { return nothing; }")
    reason = small.refusal()
    assert reason is not None
    assert "nothing" in reason
    assert "\n" not in reason


def test_no_compiler_is_a_refusal(small: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert small.refusal() == "no C++ compiler was found: install g++"


def test_a_named_compiler_that_is_missing_is_a_refusal(small: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in (small.refusal() or "")


def test_a_library_that_does_not_load_names_the_folder_and_the_remedy(
    small: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> ctypes.CDLL:
        raise OSError(f"{path}: failed to map segment from shared object")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    reason = small.refusal() or ""
    assert "failed to map segment" in reason
    assert str(tmp_path / "cache" / "antangel" / "kernels") in reason
    assert "XDG_CACHE_HOME" in reason


def test_a_cache_that_cannot_be_written_is_a_refusal(
    small: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocking = tmp_path / "file"
    blocking.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocking))
    reason = small.refusal() or ""
    assert str(blocking) in reason
    assert "XDG_CACHE_HOME" in reason


def test_lost_arithmetic_is_a_refusal(small: Variant) -> None:
    assert "probe 3" in (replace(small, flags=("-DPROBE=3",)).refusal() or "")


def test_a_missing_feature_is_a_refusal_without_compiling(small: Variant, tmp_path: Path) -> None:
    assert replace(small, needs=frozenset({"warp_drive"})).refusal() == "this CPU has no warp_drive"
    assert not (tmp_path / "cache").exists()


def test_a_refusal_is_remembered(small: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    first = small.refusal()
    monkeypatch.delenv("CXX")
    assert small.refusal() == first


def test_many_compile_at_once(small: Variant, tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as workers:
        paths = set(workers.map(lambda _: build.build(small.name, small.flags), range(6)))
    assert libraries(tmp_path) == list(paths)
    assert ctypes.CDLL(str(paths.pop())).aa_probe() == 0


def test_every_variant_has_another_name_and_one_runs_anywhere() -> None:
    assert len({variant.name for variant in best_first}) == len(best_first)
    assert PORTABLE.needs == frozenset()


@pytest.mark.parametrize("variant", [v for v in best_first if v.needs <= cpu_features()], ids=lambda v: v.name)
def test_what_this_cpu_can_run_is_built(variant: Variant) -> None:
    assert variant.refusal() is None
    assert variant.library.aa_variant().decode() == variant.name


def test_features_are_read_from_either_kind_of_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(variants, "CPU_INFO", info)
    read = cpu_features.__wrapped__
    info.write_text("processor\t: 0\nflags\t\t: fpu avx2 f16c\n\nprocessor\t: 1\n")
    assert read() == {"fpu", "avx2", "f16c"}
    info.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    assert read() == {"fp", "asimd", "asimddp"}
    info.unlink()
    assert read() == frozenset()


def test_ctypes_declares_what_the_header_does() -> None:
    header = (build.SOURCES / "abi.h").read_text()
    declared = dict(re.findall(r"(aa_\w+)\(([^)]*)\);", header))
    assert set(declared) == set(abi.SIGNATURES)
    letters = {"int": "i", "int64_t": "l", "float": "f"}
    for name, arguments in declared.items():
        expected = ""
        for argument in filter(None, (part.strip() for part in arguments.split(","))):
            words = argument.split()
            expected += "m" if "aa_matrix*" in words else "p" if "*" in argument else letters[words[0]]
        assert abi.SIGNATURES[name].partition(":")[2] == expected, name


def test_the_matrix_has_the_size_of_the_header() -> None:
    assert ctypes.sizeof(abi.CMatrix) == 64


def test_every_variant_is_registered_best_first() -> None:
    names = [i.name for i in implementations("linear") if i.name.startswith("c++")]
    assert names == [f"c++ {variant.name}" for variant in best_first]


def test_other_devices_and_dtypes_are_refused() -> None:
    assert "CPU" in (cpu.supports(PORTABLE, torch.device("cuda"), torch.float32) or "")
    assert "bfloat16" in (cpu.supports(PORTABLE, torch.device("cpu"), torch.bfloat16) or "")
    assert cpu.supports(PORTABLE, torch.device("cpu"), torch.float32) is None


def test_threads_are_set_for_what_is_loaded() -> None:
    loaded = next(variant for variant in best_first if variant.refusal() is None)
    for threads in (3, 2):
        cpu.set_threads(threads)
        assert loaded.library.aa_threads() == threads
    with pytest.raises(ValueError, match="0 threads"):
        cpu.set_threads(0)


def test_threads_are_set_for_what_is_loaded_later(small: Variant) -> None:
    cpu.set_threads(5)
    assert small.library.aa_threads() == 5
    cpu.set_threads(2)


@pytest.mark.parametrize(
    ("told", "expected"), [("3", 3), ("", len(os.sched_getaffinity(0))), ("x", len(os.sched_getaffinity(0)))]
)
def test_threads_without_being_told(told: str, expected: int) -> None:
    script = "from kernels.cpu import best_first; print(best_first[-1].library.aa_threads())"
    environment = {**os.environ, "OMP_NUM_THREADS": told, "PYTHONPATH": str(Path(cpu.__file__).parents[2])}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert int(result.stdout) == expected


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs binutils")
def test_only_the_interface_is_exported() -> None:
    path = build.build(PORTABLE.name, PORTABLE.flags)
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", str(path)], capture_output=True, text=True, check=True
    ).stdout
    ours = {name for name in (line.split()[-1] for line in listed.splitlines()) if name.startswith(("aa", "_ZN2aa"))}
    assert ours <= set(abi.SIGNATURES)
