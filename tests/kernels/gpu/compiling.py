"""Compiles what an op would launch, with no GPU at hand, and reads the result.

Run as a program it compiles the cases of tests/kernels/gpu/cases/ for the architectures named and prints JSON, or a
table. Triton decides between interpreter and compiler when a kernel is defined, so that it takes a process of its own,
with TRITON_INTERPRET=0.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

ARCHITECTURES = (80, 86, 89, 90, 120)


@dataclass(frozen=True)
class Case:
    """An op called on example tensors, which need no memory of their own: what it would launch is compiled.

    `traits` are regular expressions, each of which the PTX of at least one of its kernels must match. Offsets into a
    tensor of 2^31 elements or more must be computed in 64 bits: such a tensor among the examples asks for that.
    """

    name: str
    call: Callable[[], None]
    traits: tuple[str, ...] = ()
    architectures: tuple[int, ...] = ARCHITECTURES


@dataclass(frozen=True)
class Compiled:
    """One kernel for one architecture, or the error of a case that could not be compiled.

    Bytes of local memory a thread, which is what spills go to, and of shared memory a program. `narrow` are the
    parameters that are longer than 32 bits can index and yet are indexed so.
    """

    case: str
    architecture: int
    kernel: str = ""
    registers: int = 0
    spilled: int = 0
    shared: int = 0
    warps: int = 0
    seconds: float = 0.0
    narrow: tuple[str, ...] = ()
    ptx: str = ""
    error: str = ""


def cases_of(package_name: str = "tests.kernels.gpu.cases") -> list[Case]:
    """Those of every module in a package, or of one module."""
    package = importlib.import_module(package_name)
    if not hasattr(package, "__path__"):
        return list(package.CASES)
    modules = sorted(found.name for found in pkgutil.iter_modules(package.__path__))
    return [case for name in modules for case in importlib.import_module(f"{package_name}.{name}").CASES]


def compile_case(case: Case, architecture: int, *, fused: bool = False) -> list[Compiled]:
    """The kernels that a case launches, each once. `fused` lets multiplications and additions be fused, as launch() never does."""
    from kernels.gpu.launch import recording

    try:
        with recording() as launches:
            case.call()
        assert launches, f"{case.name} launches nothing"
        different = {repr(_specialised(launch)) + repr(launch): launch for launch in launches}
        return [_compiled(case.name, launch, architecture, fused) for launch in different.values()]
    except Exception:
        return [Compiled(case.name, architecture, error=traceback.format_exc())]


def _compiled(case: str, launch: Any, architecture: int, fused: bool) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget

    started = time.perf_counter()
    signature, constants, attributes = _specialised(launch)
    source = triton.compiler.ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": launch.warps, "num_stages": launch.stages, "enable_fp_fusion": fused}
    made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    registers, spilled = _resources(made.asm["cubin"])
    return Compiled(
        case,
        architecture,
        f"{launch.kernel.__module__.rpartition('.')[2]}.{launch.kernel.__name__}",
        registers,
        spilled,
        made.metadata.shared,
        launch.warps,
        time.perf_counter() - started,
        tuple(name for name in _long(launch) if _narrowly_indexed(made.asm["ttir"], name)),
        made.asm["ptx"],
    )


def _specialised(launch: Any) -> tuple[dict[str, str], dict[Any, Any], dict[Any, Any]]:
    """Types, constants and alignments as Triton's launcher derives them from arguments."""
    signature, constants, attributes = {}, dict(launch.constants), {}
    for index, (parameter, value) in enumerate(zip(launch.kernel.params, launch.arguments, strict=False)):
        if value is None or (type(value) is int and value == 1 and not parameter.do_not_specialize):
            constants[parameter.name] = value
            continue
        signature[parameter.name] = _type_of(value)
        if _is_aligned(value) and not parameter.do_not_specialize_on_alignment:
            attributes[(index,)] = [["tt.divisibility", 16]]
    signature |= dict.fromkeys(constants, "constexpr")
    return {name: signature[name] for name in launch.kernel.arg_names}, constants, attributes


def _type_of(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"*{_TYPES[value.dtype]}"
    if isinstance(value, bool):
        return "u1"
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


_TYPES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "i1",
}


def _is_aligned(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.storage_offset() * value.element_size() % 16 == 0
    return type(value) is int and value % 16 == 0


def _long(launch: Any) -> list[str]:
    """Parameters that are tensors of 2^31 elements or more."""
    named = zip(launch.kernel.arg_names, launch.arguments, strict=False)
    return [name for name, value in named if isinstance(value, torch.Tensor) and value.numel() >= 2**31]


def _narrowly_indexed(ttir: str, parameter: str) -> bool:
    """Whether what is added to a parameter is made of products, of which none was taken in 64 bits."""
    made_by = dict(re.findall(r"(%[\w#]+) = (.*)", ttir))
    bases = {f"%{parameter}"}
    bases |= {name for name, how in made_by.items() if how.startswith(f"tt.splat %{parameter} ")}
    added = (re.match(r"tt\.addptr (%[\w#]+), (%[\w#]+) ", how) for how in made_by.values())
    return any(_products(one[2], made_by) == {32} for one in added if one and one[1] in bases)


def _products(offset: str, made_by: dict[str, str]) -> set[int]:
    """The widths of the products of which an offset is a sum."""
    how = made_by.get(offset, "")
    if re.match(r"arith\.(muli|shli) ", how):
        return {64 if "i64" in how.rpartition(" : ")[2] else 32}
    if re.match(r"tt\.(splat|broadcast|expand_dims|reshape|trans) |arith\.(extsi|addi|subi) ", how):
        return {width for part in re.findall(r"%[\w#]+", how) for width in _products(part, made_by)}
    return set()


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers a thread, and bytes of local memory a thread."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    used = re.search(r"REG:(\d+).*?STACK:(\d+).*?LOCAL:(\d+)", said.stdout + said.stderr)
    assert used, said.stdout + said.stderr
    return int(used[1]), max(int(used[2]), int(used[3]))


def jobs_of(cases: Sequence[Case], architectures: Sequence[int], *, one_each: bool) -> list[tuple[Case, int]]:
    """Every case for each architecture that is both asked for and its own; or for one of those, in turn.

    The turns are those of an op, what comes before the first colon, so that a new case of one leaves others as they are.
    """
    found, turns = [], Counter[str]()
    for case in cases:
        own = [architecture for architecture in architectures if architecture in case.architectures]
        op = case.name.partition(":")[0]
        turn = turns[op]
        turns[op] += 1
        # Each round begins one further, lest a shape that comes back after so many cases always meets the same one.
        chosen = own[(turn + turn // len(own)) % len(own) :][:1] if one_each and own else own
        found += [(case, architecture) for architecture in chosen]
    return found


def compile_all(jobs: Sequence[tuple[Case, int]], package_name: str) -> list[Compiled]:
    """On two processes."""
    named = [(package_name, case.name, architecture) for case, architecture in jobs]
    with ProcessPoolExecutor(2, mp_context=get_context("fork"), initializer=_start) as pool:
        return [one for made in pool.map(_compile_named, named) for one in made]


def _start() -> None:
    torch.set_num_threads(1)


def _compile_named(job: tuple[str, str, int]) -> list[Compiled]:
    package_name, name, architecture = job
    case = next(case for case in cases_of(package_name) if case.name == name)
    return compile_case(case, architecture)


def as_table(made: Iterable[Compiled]) -> str:
    """One line for each case and kernel, and for each architecture its registers, spills and shared memory."""
    lines: dict[tuple[str, str, int], dict[int, Compiled]] = {}
    for one in made:
        lines.setdefault((one.case, one.kernel, one.warps), {})[one.architecture] = one
    architectures = sorted({arch for by_arch in lines.values() for arch in by_arch})
    head = ["case", "kernel", "warps", *(f"sm_{arch}" for arch in architectures)]
    rows = [
        [case, kernel, str(warps), *(_cell(by_arch.get(arch)) for arch in architectures)]
        for (case, kernel, warps), by_arch in lines.items()
    ]
    marks = ["---"] * len(head)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, marks, *rows))


def _cell(one: Compiled | None) -> str:
    """Registers, spilled bytes, shared bytes."""
    if one is None:
        return ""
    return "failed" if one.error else f"{one.registers} / {one.spilled} / {one.shared}"


def main(arguments: list[str]) -> None:
    """compiling.py [--table] [--one-each] [--case NAME] [--from MODULE] ARCHITECTURE...: prints JSON, or a Markdown table.

    What is wrong is listed on stderr. With --one-each a case is compiled for one of the architectures, in turn.
    """
    from tests.kernels.gpu.checking import faults

    words = list(arguments)
    name, package = _option(words, "--case"), _option(words, "--from") or "tests.kernels.gpu.cases"
    architectures = [int(word) for word in words if not word.startswith("--")]
    cases = [case for case in cases_of(package) if name in (None, case.name)]
    made = compile_all(jobs_of(cases, architectures, one_each="--one-each" in words), package)
    if "--table" in words:
        sys.stdout.write(as_table(made) + "\n")
    else:
        json.dump([asdict(one) for one in made], sys.stdout)
    sys.stderr.write("".join(f"{fault}\n" for fault in faults(cases, made)))


def _option(words: list[str], option: str) -> str | None:
    """The word after an option; both are taken off."""
    if option not in words:
        return None
    at = words.index(option)
    value = words[at + 1]
    del words[at : at + 2]
    return value


if __name__ == "__main__":
    if os.environ.get("TRITON_INTERPRET") == "1":
        sys.exit("set TRITON_INTERPRET=0: kernels defined for the interpreter cannot be compiled")
    main(sys.argv[1:])
