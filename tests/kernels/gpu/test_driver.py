"""The calls of CUDA's driver, made to a stand-in for its library, with the host's tasks from end to end."""

from __future__ import annotations

import ctypes
import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton

from kernels import reference
from kernels.cpu.in_place import Frames, InPlaceTask, StageTask
from kernels.gpu import driver
from kernels.gpu.driver import Driver, DriverError
from runtime.gpu.host_node import HostNode
from tests.kernels.scalars import same_bits
from tests.kernels.test_cpu_products import random_pool, random_rows
from tests.kernels.test_in_place import expected, frames_of, routed, shape_of, tables
from tests.kernels.variants import RUNNABLE

SHIFT = 0x100000000000
STREAM = SimpleNamespace(cuda_stream=0x5EAF00D5EAF0)  # more than 32 bits, as true handles are
CAPTURED = SimpleNamespace(cuda_stream=0xC0DE)
CUDA_HEADER = Path(triton.__file__).parent / "backends" / "nvidia" / "include" / "cuda.h"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("fake") / "libcuda.so.1"
    source = Path(__file__).parent / "fake_cuda.c"
    subprocess.run(
        ["gcc", "-Wall", "-Werror", "-fPIC", "-shared", "-pthread", str(source), "-o", str(library)], check=True
    )
    return library


@pytest.fixture
def library(compiled: Path, tmp_path: Path) -> Path:
    """A copy for each test: loaded anew, with nothing registered."""
    copy = tmp_path / "libcuda.so.1"
    copy.write_bytes(compiled.read_bytes())
    return copy


@pytest.fixture
def fake(library: Path) -> ctypes.CDLL:
    opened = ctypes.CDLL(str(library))
    opened.fake_bytes.restype = ctypes.c_size_t
    opened.fake_last_stream.restype = ctypes.c_uint64
    return opened


def test_registers_memory_for_every_context_and_for_kernels(fake: ctypes.CDLL, library: Path) -> None:
    cuda, memory = Driver(library=str(library)), torch.zeros(8192, dtype=torch.uint8)
    address = memory.data_ptr()
    cuda.register(address, 8192)
    assert (fake.fake_regions(), fake.fake_bytes(0), fake.fake_flags(0)) == (1, 8192, 0x01 | 0x02)
    assert cuda.device_pointer(address + 100) == address + 100 + SHIFT
    cuda.unregister(address)
    assert fake.fake_regions() == 0


def test_more_than_32_bits_of_bytes_are_told(fake: ctypes.CDLL, library: Path) -> None:
    Driver(library=str(library)).register(0x7F1234567000, 53 << 30)
    assert fake.fake_bytes(0) == 53 << 30


def test_a_thread_that_did_not_use_the_gpu_may_register(fake: ctypes.CDLL, library: Path) -> None:
    cuda = Driver(library=str(library))
    cuda.register(1 << 20, 4096)
    thread = threading.Thread(target=cuda.register, args=(2 << 20, 4096))
    thread.start()
    thread.join()
    assert fake.fake_regions() == 2


def test_a_refusal_names_the_code_and_the_remedy(fake: ctypes.CDLL, library: Path) -> None:
    cuda = Driver(library=str(library))
    fake.fake_refuse(2, 2)
    cuda.register(1 << 20, 4096)
    with pytest.raises(DriverError, match=r"CUDA_ERROR_OUT_OF_MEMORY \(2\).*ulimit -l") as caught:
        cuda.register(2 << 20, 4096)
    error = caught.value
    assert (error.call, error.name, error.code) == ("cuMemHostRegister_v2", "CUDA_ERROR_OUT_OF_MEMORY", 2)
    assert error.remedy in str(error)
    assert "\n" not in str(error)
    assert fake.fake_regions() == 1
    cuda.register(2 << 20, 4096)


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (lambda cuda: cuda.register(1 << 20, 4096), 712),
        (lambda cuda: cuda.register(4 << 20, 0), 1),
        (lambda cuda: cuda.unregister((1 << 20) + 64), 713),
        (lambda cuda: cuda.device_pointer(2 << 20), 1),
        (lambda cuda: cuda.launch_host_function(0, 0, 0), 1),
    ],
    ids=["register twice", "register nothing", "unregister other", "pointer to other", "no function"],
)
def test_every_call_tells_what_was_refused(library: Path, act: Callable[[Driver], Any], code: int) -> None:
    cuda = Driver(library=str(library))
    cuda.register(1 << 20, 4096)
    with pytest.raises(DriverError) as caught:
        act(cuda)
    assert caught.value.code == code
    assert caught.value.remedy == driver.REMEDIES[code]


def test_errors_of_other_kinds(fake: ctypes.CDLL, library: Path) -> None:
    cuda = Driver(library=str(library))
    fake.fake_refuse(1, 719)
    with pytest.raises(DriverError, match=r"CUDA_ERROR_LAUNCH_FAILED \(719\): an earlier kernel"):
        cuda.register(1 << 20, 4096)
    fake.fake_refuse(1, 12345)
    with pytest.raises(DriverError, match=r"unknown error \(12345\)"):
        cuda.register(1 << 20, 4096)
    with pytest.raises(DriverError, match="cuDeviceGet failed"):
        threading_result(lambda: Driver(1, str(library)).register(2 << 20, 4096))


def threading_result(act: Callable[[], None]) -> None:
    """Runs on a thread that has no context, and raises here what it raised there."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            act()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in errors:
        raise error


def test_no_driver_is_an_error_at_the_first_call_alone(tmp_path: Path) -> None:
    cuda = Driver(library=str(tmp_path / "none.so"))
    with pytest.raises(DriverError, match="install NVIDIA's driver"):
        cuda.register(1 << 20, 4096)


def test_an_old_driver_names_what_it_lacks(tmp_path: Path) -> None:
    source, library = tmp_path / "old.c", tmp_path / "old.so"
    source.write_text("int cuInit(unsigned flags) { return 0; }")
    subprocess.run(["gcc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    with pytest.raises(DriverError, match=r"cuCtxGetCurrent.*newer NVIDIA driver"):
        Driver(library=str(library)).register(1 << 20, 4096)


def test_signatures_and_constants_are_those_of_the_header() -> None:
    header = CUDA_HEADER.read_text()
    kinds = {
        "unsigned int": ctypes.c_uint,
        "int": ctypes.c_int,
        "CUresult": ctypes.c_int,
        "CUdevice": ctypes.c_int,
        "size_t": ctypes.c_size_t,
        "void *": ctypes.c_void_p,
        "CUcontext": ctypes.c_void_p,
        "CUstream": ctypes.c_void_p,
        "CUhostFn": ctypes.c_void_p,
        "const char **": ctypes.POINTER(ctypes.c_char_p),
        "CUdevice *": ctypes.POINTER(ctypes.c_int),
        "CUcontext *": ctypes.POINTER(ctypes.c_void_p),
        "CUdeviceptr *": ctypes.POINTER(ctypes.c_uint64),
    }
    for name, types in driver._SIGNATURES.items():
        declared = re.search(rf"CUresult CUDAAPI {name.removesuffix('_v2')}\(([^)]*)\);", header)
        assert declared is not None, name
        arguments = [re.sub(r"\w+$", "", argument.strip()).strip() for argument in declared[1].split(",")]
        assert tuple(kinds[argument] for argument in arguments) == types, name
        if name.endswith("_v2"):
            assert re.search(rf"#define {name.removesuffix('_v2')}\s+{name}\b", header)
    for constant, value in (("PORTABLE", driver.PORTABLE), ("DEVICEMAP", driver.DEVICEMAP)):
        assert re.search(rf"#define CU_MEMHOSTREGISTER_{constant}\s+0x0{value}\b", header)
    for code in driver.REMEDIES:
        assert re.search(rf"CUDA_ERROR_\w+\s+= {code},", header), code


def test_a_host_node_runs_behind_a_stream_and_with_every_replay(fake: ctypes.CDLL, library: Path) -> None:
    pool = random_pool(6, "w4a8:64", "w4a8:64", 256, 128)
    x, ids = random_rows(3, 256, 1), routed(3, 6)
    chosen = ids.unique().tolist()
    step, outputs = tables(x, ids, chosen, pool), expected(x, ids, chosen, pool)
    task = InPlaceTask(RUNNABLE[0], step, frames_of(pool), shape_of(pool), 3)
    node = HostNode(task, Driver(library=str(library)))

    node.enqueue(None)
    assert same_bits(step.outputs, outputs)
    step.outputs.fill_(-77.0)
    node.enqueue(STREAM)
    assert same_bits(step.outputs, outputs)
    assert fake.fake_last_stream() == STREAM.cuda_stream

    step.outputs.fill_(-77.0)
    node.enqueue(CAPTURED)
    assert (step.outputs == -77.0).all()
    for seed in (2, 3):
        x = random_rows(3, 256, seed)
        step.q[:], step.scales[:] = reference.quantise_activation(x, 64)
        assert fake.fake_replay() == 0
        assert same_bits(step.outputs, expected(x, ids, chosen, pool))
    assert task.counters.calls == 4
    task.check_fault()


def test_staging_runs_behind_a_stream(library: Path) -> None:
    blobs = torch.randint(0, 256, (4, 4096), dtype=torch.uint8)
    ring, fault = torch.zeros(2, 4096, dtype=torch.uint8), torch.zeros(1, dtype=torch.int32)
    moves = torch.tensor([[3, 0], [1, 5]], dtype=torch.int32)
    task = StageTask(RUNNABLE[0], torch.tensor([2], dtype=torch.int32), moves, Frames.of(blobs), ring, fault)
    HostNode(task, Driver(library=str(library))).enqueue(STREAM)
    assert torch.equal(ring, blobs[[3, 1]])
    assert task.counters.bytes == 8192


def test_a_host_node_without_a_driver_says_so(tmp_path: Path) -> None:
    task = SimpleNamespace(function=1, data=2, run=lambda: None)
    node = HostNode(task, Driver(library=str(tmp_path / "none.so")))
    node.enqueue(None)
    with pytest.raises(DriverError, match="opening the driver"):
        node.enqueue(STREAM)
