"""The instruction sets that the C++ kernels are compiled for, and which of them this machine can run."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from kernels.cpu.abi import declare
from kernels.cpu.build import BuildError, build
from kernels.registry import Announce

CPU_INFO = Path("/proc/cpuinfo")


@cache
def cpu_features() -> frozenset[str]:
    """What Linux says that the first core can do; empty where it doesn't say."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    named = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(named.partition(":")[2].split())


@dataclass(frozen=True)
class Variant:
    """The kernels, compiled for an instruction set."""

    name: str
    flags: tuple[str, ...]
    needs: frozenset[str]  # of cpu_features()
    _opened: list[ctypes.CDLL | BuildError] = field(default_factory=list, init=False, repr=False, compare=False)

    def refusal(self, announce: Announce | None = None) -> str | None:
        """Why this machine can't run it, in one line, or None. Compiles on first use, after telling `announce`."""
        missing = sorted(self.needs - cpu_features())
        if missing:
            return f"this CPU has no {', '.join(missing)}"
        try:
            self._open(announce)
        except BuildError as error:
            return str(error)
        return None

    @property
    def library(self) -> ctypes.CDLL:
        """The loaded library. Raises BuildError."""
        found = self._opened[0] if self._opened else None
        return found if isinstance(found, ctypes.CDLL) else self._open(None)

    def _open(self, announce: Announce | None) -> ctypes.CDLL:
        """Builds and loads once per process; a failure is remembered too."""
        if not self._opened:
            try:
                self._opened.append(_load(build(self.name, self.flags, announce)))
            except BuildError as error:
                self._opened.append(error)
        found = self._opened[0]
        if isinstance(found, BuildError):
            raise found
        return found


def _load(path: Path) -> ctypes.CDLL:
    try:
        library = declare(ctypes.CDLL(str(path)))
    except OSError as error:
        raise BuildError(
            f"{path.parent} holds compiled kernels that do not load ({error}): if it is mounted noexec, "
            "set XDG_CACHE_HOME to a folder that is not"
        ) from error
    lost = library.aa_probe()
    if lost:
        raise BuildError(f"the compiler did not keep exact arithmetic (probe {lost}): use another one by CXX")
    if _wanted_threads:
        library.aa_set_threads(_wanted_threads[-1])
    return library


_AVX2 = ("-DAA_AVX2", "-mavx2", "-mf16c")
_AVX512 = ("-DAA_AVX512", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mf16c")
_NEEDS_AVX512 = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq"})

best_first = (
    Variant("avx512vnni", (*_AVX512, "-DAA_VNNI", "-mavx512vnni"), _NEEDS_AVX512 | {"avx512_vnni"}),
    Variant("avxvnni", (*_AVX2, "-DAA_VNNI", "-mavxvnni"), frozenset({"avx2", "f16c", "avx_vnni"})),
    Variant("avx512", _AVX512, _NEEDS_AVX512),
    Variant("avx2", _AVX2, frozenset({"avx2", "f16c"})),
    Variant("neon", ("-DAA_NEON", "-march=armv8.2-a+dotprod"), frozenset({"asimddp"})),
    Variant("portable", (), frozenset()),
)

# What set_threads was told last, for libraries that are loaded later.
_wanted_threads: list[int] = []


def set_threads(threads: int) -> None:
    """Threads of every variant's pool, the calling one included; without it OMP_NUM_THREADS, else the cores allowed."""
    if threads < 1:
        raise ValueError(f"{threads} threads cannot compute: use 1 or more")
    _wanted_threads[:] = [threads]
    for variant in best_first:
        for library in variant._opened:
            if isinstance(library, ctypes.CDLL):
                library.aa_set_threads(threads)
