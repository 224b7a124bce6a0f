"""What a compiled kernel must not do, and what it must."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from tests.kernels.gpu.compiling import Case, Compiled

# Instructions of PTX that fuse, approximate or flush, and float sums whose order is the hardware's.
REFUSED = {
    "fuses": r"fma\.|mad\.\S*f(16|32|64)",
    "approximates": r"div\.(full|approx)|ex2|lg2|rsqrt|sqrt\.approx|rcp\.approx|tanh|sin\.|cos\.",
    "flushes subnormals": r"\S*\.ftz",
    "sums floats on tensor cores": r"(wg)?mma\S*\.(f|bf|tf)\d",
    "sums floats by order of arrival": r"(atom|red)\.\S*add\S*\.(noftz\.)?b?f\d",
}

# Bytes of shared memory that a program can have.
MOST_SHARED = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024, 120: 99 * 1024}
MOST_REGISTERS = 255

# Bytes of a thread that ptxas may put aside for the sake of occupancy, far below the registers there are: another ptxas,
# or another launch of the same kernel, puts none aside.
PUT_ASIDE = 16


def faults(cases: Sequence[Case], made: Iterable[Compiled]) -> list[str]:
    """What is wrong, one line each: of every kernel by itself, and of every case as a whole."""
    by_case: dict[tuple[str, int], list[Compiled]] = {}
    for one in made:
        by_case.setdefault((one.case, one.architecture), []).append(one)
    named = {case.name: case for case in cases}
    return [
        f"{name} on sm_{architecture}: {fault}"
        for (name, architecture), kernels in by_case.items()
        for fault in faults_of_case(named[name], kernels)
    ]


def faults_of_case(case: Case, kernels: Sequence[Compiled]) -> list[str]:
    """Those of the kernels that a case launches on one architecture."""
    found = [f"{one.kernel} {fault}" if one.kernel else fault for one in kernels for fault in _faults(one)]
    if any(one.error for one in kernels):
        return found
    missing = [trait for trait in case.traits if not any(re.search(trait, one.ptx) for one in kernels)]
    return [*found, *(f"no PTX matches {trait!r}" for trait in missing)]


def _faults(one: Compiled) -> Iterator[str]:
    if one.error:
        yield f"does not compile:\n{one.error}"
        return
    yield from _refused(one.ptx)
    if one.spilled > PUT_ASIDE:
        yield f"spills {one.spilled} bytes a thread"
    if one.registers > MOST_REGISTERS:
        yield f"needs {one.registers} registers"
    if one.shared > MOST_SHARED[one.architecture]:
        yield f"needs {one.shared} bytes of shared memory, of {MOST_SHARED[one.architecture]}"
    for name in one.narrow:
        yield f"computes offsets into {name} in 32 bits"


def _refused(ptx: str) -> Iterator[str]:
    """The first instruction of each kind that is refused."""
    for what, pattern in REFUSED.items():
        if found := re.search(rf"^\s*(?:@!?%p\d+\s+)?({pattern})[^\n]*", ptx, re.MULTILINE):
            yield f"{what}: `{found[0].strip()}`"
