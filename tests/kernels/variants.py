"""The kernels that tests compare: those this processor runs and, where ANTANGEL_EMULATE is set, emulated ones."""

from __future__ import annotations

import os
from pathlib import Path

from kernels.cpu.variants import Variant, best_first

SIMDE = Path(__file__).parent.parent / "emulated" / "simde"


def _emulated(name: str, *flags: str) -> Variant:
    """A variant whose intrinsics SIMDe computes (Debian: libsimde-dev) on a processor with AVX2."""
    return Variant(
        f"{name}-simde", ("-O2", "-mavx2", "-mf16c", f"-I{SIMDE}", "-DAA_EMULATED", *flags), frozenset({"avx2", "f16c"})
    )


EMULATED = (
    _emulated("avx512vnni", "-DAA_AVX512", "-DAA_VNNI"),
    _emulated("avx512", "-DAA_AVX512"),
    _emulated("avxvnni", "-DAA_AVX2", "-DAA_VNNI"),
)

_tried = (*best_first, *(EMULATED if os.environ.get("ANTANGEL_EMULATE") else ()))
RUNNABLE = [variant for variant in _tried if variant.refusal() is None]


def set_all_threads(threads: int) -> None:
    """Threads of every variant under test."""
    for variant in RUNNABLE:
        variant.library.aa_set_threads(threads)
