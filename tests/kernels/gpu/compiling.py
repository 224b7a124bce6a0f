"""Compiles what an op would launch, with no GPU at hand, and reads the result.

Run as a program it compiles every case of tests/kernels/gpu/cases/ for the architectures named and prints JSON: Triton
decides between interpreter and compiler when a kernel is defined, so that it takes a process of its own.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ARCHITECTURES = (80, 86, 89, 90, 120)


@dataclass(frozen=True)
class Case:
    """An op called on example tensors, which need no memory of their own: what it would launch is compiled.

    `approximate` says that a kernel defines no exact reals, and `traits` are strings that its PTX must have.
    """

    name: str
    call: Callable[[], None]
    traits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compiled:
    """One kernel for one architecture. Bytes of shared memory and of local memory, which is what spills go to."""

    case: str
    kernel: str
    architecture: int
    registers: int
    spilled: int
    shared: int
    warps: int
    ptx: str


def all_cases() -> Iterator[Case]:
    """Those of every module in cases/."""
    package = importlib.import_module("tests.kernels.gpu.cases")
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda found: found.name):
        yield from importlib.import_module(f"tests.kernels.gpu.cases.{module.name}").CASES


def compile_case(case: Case, architecture: int) -> list[Compiled]:
    """The kernels that a case launches, each once."""
    from kernels.gpu.launch import recording

    with recording() as launches:
        case.call()
    assert launches, f"{case.name} launches nothing"
    return [_compiled(case.name, launch, architecture) for launch in launches]


def _compiled(case: str, launch: Any, architecture: int) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget

    signature, constants, attributes = _specialised(launch)
    source = triton.compiler.ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": launch.warps, "num_stages": launch.stages, "enable_fp_fusion": False}
    made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    registers, spilled = _resources(made.asm["cubin"])
    name = f"{launch.kernel.__module__.rpartition('.')[2]}.{launch.kernel.__name__}"
    return Compiled(
        case, name, architecture, registers, spilled, made.metadata.shared, launch.warps, made.asm["ptx"]
    )


def _specialised(launch: Any) -> tuple[dict[str, str], dict[Any, Any], dict[Any, Any]]:
    """Types, constants and alignments as Triton's launcher derives them from arguments."""
    import torch

    names = launch.kernel.arg_names
    signature, constants, attributes = {}, dict(launch.constants), {}
    aligned = [["tt.divisibility", 16]]
    for index, (name, value) in enumerate(zip(names, launch.arguments, strict=False)):
        if isinstance(value, torch.Tensor):
            signature[name] = f"*{_TYPES[value.dtype]}"
            if value.storage_offset() * value.element_size() % 16 == 0:
                attributes[(index,)] = aligned
        elif value is None or (isinstance(value, int) and not isinstance(value, bool) and value == 1):
            constants[name] = value
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(index,)] = aligned
    constants |= {name: launch.constants[name] for name in names if name in launch.constants}
    signature |= {name: "constexpr" for name in constants}
    return {name: signature[name] for name in names}, constants, attributes


_TYPES = {
    _torch_type: name
    for _torch_type, name in (
        (__import__("torch").float32, "fp32"),
        (__import__("torch").float64, "fp64"),
        (__import__("torch").bfloat16, "bf16"),
        (__import__("torch").float16, "fp16"),
        (__import__("torch").int8, "i8"),
        (__import__("torch").uint8, "u8"),
        (__import__("torch").int16, "i16"),
        (__import__("torch").int32, "i32"),
        (__import__("torch").int64, "i64"),
        (__import__("torch").bool, "i1"),
    )
}


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


def _compile_named(name: str, architecture: int) -> list[dict[str, Any]]:
    case = next(case for case in all_cases() if case.name == name)
    return [asdict(one) | {"traits": case.traits} for one in compile_case(case, architecture)]


def main(arguments: list[str]) -> None:
    """compiling.py [--case NAME] ARCHITECTURE...: prints one JSON list."""
    wanted = arguments[1] if arguments[:1] == ["--case"] else None
    architectures = [int(word) for word in arguments[2 if wanted else 0 :]]
    names = [case.name for case in all_cases() if wanted in (None, case.name)]
    with ProcessPoolExecutor(2) as pool:
        jobs = [pool.submit(_compile_named, name, arch) for name in names for arch in architectures]
        made = [one for job in jobs for one in job.result()]
    json.dump(made, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
