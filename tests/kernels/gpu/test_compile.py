"""Every kernel compiles for every architecture to exact arithmetic that fits, with no GPU at hand; and what would not is noticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kernels.gpu.launch import launch, recording
from tests.kernels.gpu import bad_cases
from tests.kernels.gpu.checking import faults_of_case
from tests.kernels.gpu.compiling import ARCHITECTURES, Case, Compiled, as_table, cases_of, jobs_of

ROOT = Path(__file__).resolve().parents[3]
CASES = cases_of()

# Every case for every architecture takes minutes, and is what `make compile` does; else each case is compiled for one.
COMPILES_ALL = os.environ.get("ANTANGEL_COMPILE") == "all"
EVERY = jobs_of(CASES, ARCHITECTURES, one_each=not COMPILES_ALL)

By = dict[tuple[str, int], list[Compiled]]


def compiled(module: str, *words: str, cache: Path) -> By:
    """What a program prints that compiles, by case and architecture."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)}
    command = [sys.executable, "-m", f"tests.kernels.gpu.{module}", *words]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made: By = {}
    for one in json.loads(done.stdout):
        made.setdefault((one["case"], one["architecture"]), []).append(Compiled(**one))
    return made


@pytest.fixture(scope="session")
def cache(request: pytest.FixtureRequest) -> Path:
    """Triton's cache of what it compiled, kept with pytest's: a kernel that didn't change is not compiled again."""
    return Path(request.config.cache.mkdir("triton"))


@pytest.fixture(scope="session")
def every(cache: Path) -> By:
    return compiled("compiling", *([] if COMPILES_ALL else ["--one-each"]), *map(str, ARCHITECTURES), cache=cache)


@pytest.mark.parametrize(("case", "architecture"), EVERY, ids=[f"{case.name}-sm_{arch}" for case, arch in EVERY])
def test_it_compiles_to_exact_arithmetic_that_fits(every: By, case: Case, architecture: int) -> None:
    found = faults_of_case(case, every[case.name, architecture])
    assert not found, "\n".join(found)


def test_all_architectures_are_met_by_cases_of_every_kind() -> None:
    """In turn, and cases that come back after five meet another."""
    cases = [Case(f"op:{number}", lambda: None) for number in range(25)] + [
        Case("op:newest", lambda: None, architectures=(90, 120))
    ]
    jobs = jobs_of(cases, ARCHITECTURES, one_each=True)
    assert [case for case, _ in jobs] == cases
    assert all({arch for _, arch in jobs[start:25:5]} == set(ARCHITECTURES) for start in range(5))
    assert jobs[-1][1] in (90, 120)
    assert jobs_of([Case("other", lambda: None), *cases], ARCHITECTURES, one_each=True)[1:] == jobs
    assert len(jobs_of(cases, ARCHITECTURES, one_each=False)) == 25 * 5 + 2
    assert jobs_of(cases, (80,), one_each=True)[-1][0].name == "op:24"


def test_names_of_cases_differ() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))


@pytest.fixture(scope="session")
def bad(cache: Path) -> By:
    return compiled("bad_cases", "86", cache=cache)


NOTICED = {
    "divide": ["approximates: `div.full.f32"],
    "exp": ["approximates: `ex2.approx"],
    "log": ["fuses: `fma.rn", "flushes subnormals: `fma.rn.ftz"],
    "rsqrt": ["approximates: `rsqrt.approx"],
    "sqrt": ["approximates: `sqrt.approx"],
    "fma": ["fuses: `fma.rn.f32"],
    "fused": ["fuses: `fma.rn.f32"],
    "product and sum": [],
    "spill": ["bytes a thread"],
    "float dot": ["sums floats on tensor cores: `mma.sync"],
    "float atomic": ["sums floats by order of arrival: `"],
    "crowd": ["needs 131072 bytes of shared memory, of 101376"],
    "narrow": ["computes offsets into p_from in 32 bits"],
    "widened late": ["computes offsets into p_from in 32 bits"],
    "wide": [],
    "traits": ["no PTX matches 'mma"],
    "wrong types": ["does not compile"],
    "nothing": ["nothing launches nothing"],
}


@pytest.mark.parametrize("case", [*bad_cases.CASES, bad_cases.FUSED], ids=lambda case: case.name)
def test_what_is_wrong_is_noticed(bad: By, case: Case) -> None:
    found = faults_of_case(case, bad[case.name, 86])
    assert bool(found) == bool(NOTICED[case.name]), found
    assert all(any(part in fault for fault in found) for part in NOTICED[case.name]), found


def test_a_predicated_instruction_is_noticed() -> None:
    one = Compiled("case", 80, "kernel", ptx="\t@%p3 fma.rn.f32 \t%r1, %r2, %r3, %r4;\n")
    assert faults_of_case(Case("case", lambda: None), [one])
    name = Compiled("case", 80, "kernel", ptx=".visible .entry _fma.rn_of(\n// ex2 is not used\n")
    assert not faults_of_case(Case("case", lambda: None), [name])


def test_too_many_registers_are_noticed() -> None:
    assert faults_of_case(Case("case", lambda: None), [Compiled("case", 80, "kernel", registers=256)])


def test_a_table_shows_registers_spills_and_shared_memory() -> None:
    made = [Compiled("case", arch, "kernel", 40 + arch, 0, 1024, 4) for arch in (80, 90)]
    *_, row = as_table([*made, Compiled("case", 120, error="no")]).splitlines()[:3]
    assert row == "| case | kernel | 4 | 120 / 0 / 1024 | 130 / 0 / 1024 |  |"


class Launched:
    """Stands for a kernel, and says how it was launched."""

    def __init__(self) -> None:
        self.keywords: dict[str, Any] = {}

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments, **keywords: self.keywords.update(keywords, grid=grid, arguments=arguments)


def test_a_launch_never_fuses() -> None:
    kernel = Launched()
    launch(kernel, (3,), 7, warps=2, SIZE=16)
    assert kernel.keywords["enable_fp_fusion"] is False
    assert kernel.keywords["grid"] == (3,)
    assert kernel.keywords["SIZE"] == 16


def test_a_recorded_launch_is_not_made() -> None:
    kernel = Launched()
    with recording() as launches:
        launch(kernel, (3,), 7, SIZE=16)
    assert not kernel.keywords
    assert launches[0].constants == {"SIZE": 16}
