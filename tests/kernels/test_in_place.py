"""Experts computed in host memory for a GPU's step equal the definition bit for bit, and are staged byte for byte."""

from __future__ import annotations

import ctypes
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kernels import reference
from kernels.cpu import abi, build, products
from kernels.cpu.in_place import Frames, InPlaceTask, StageTask
from kernels.cpu.variants import Variant
from kernels.formats import Format
from kernels.gpu.tables import ExpertShape, InPlace
from kernels.ops import ExpertPool, NonFiniteError
from tests.kernels.scalars import same_bits
from tests.kernels.test_cpu_products import random_matrix, random_pool, random_rows
from tests.kernels.variants import RUNNABLE, set_all_threads

HIDDEN, INNER = 256, 128
PER_TOKEN = 3
UNWRITTEN = -77.0


@pytest.fixture(params=RUNNABLE, ids=lambda variant: variant.name)
def variant(request: pytest.FixtureRequest) -> Variant:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    set_all_threads(2)


def frames_of(pool: ExpertPool) -> Frames:
    """A pool's experts in frames of a page each or more, in reverse, so that a frame is not an expert's number."""
    nbytes = -(-pool.blobs[0].numel() // 4096) * 4096
    frames = torch.full((len(pool.blobs), nbytes), 0xA5, dtype=torch.uint8)
    for frame, blob in zip(frames, reversed(pool.blobs), strict=True):
        frame[: blob.numel()] = blob
    return Frames.of(frames)


def shape_of(pool: ExpertPool) -> ExpertShape:
    return ExpertShape(pool.gate_up, pool.down, pool.hidden, pool.inner, pool.down_offset)


def tables(x: Tensor, ids: Tensor, chosen: list[int], pool: ExpertPool, most: int = 8, most_rows: int = 0) -> InPlace:
    """What a step leaves to the host: pairs of `chosen` experts of ids [T, K], for rows x, in tables of more room."""
    rows, most_rows = x.shape[0], most_rows or x.shape[0]
    per_token = ids.shape[1]
    flat = ids.flatten()
    words, listed = [len(chosen), rows], list[int]()
    for expert in chosen:
        pairs = (flat == expert).nonzero().flatten().tolist()
        words += [len(pool.blobs) - 1 - expert, len(listed), len(listed) + len(pairs)]
        listed += pairs
    q, scales = reference.quantise_activation(x, pool.gate_up.group)
    made = InPlace(
        torch.full((2 + 3 * most,), -9, dtype=torch.int32),
        torch.full((most_rows * per_token,), -9, dtype=torch.int32),
        torch.full((most_rows, pool.hidden), 99, dtype=torch.int8),
        torch.full((most_rows, pool.hidden // pool.gate_up.group), float("nan")),
        torch.full((most_rows * per_token, pool.hidden), UNWRITTEN),
        torch.zeros(1, dtype=torch.int32),
    )
    made.words[: len(words)] = torch.tensor(words, dtype=torch.int32)
    made.pairs[: len(listed)] = torch.tensor(listed, dtype=torch.int32)
    made.q[:rows], made.scales[:rows] = q, scales
    return made


def routed(rows: int, experts: int) -> Tensor:
    random = torch.Generator().manual_seed(rows)
    return torch.rand(rows, experts, generator=random).argsort(-1)[:, :PER_TOKEN].sort(-1).values


def expected(x: Tensor, ids: Tensor, chosen: list[int], pool: ExpertPool, most_rows: int = 0) -> Tensor:
    out = torch.full(((most_rows or x.shape[0]) * ids.shape[1], pool.hidden), UNWRITTEN)
    for expert in chosen:
        pairs = (ids.flatten() == expert).nonzero().flatten()
        out[pairs] = reference.feed_forward(x[pairs // ids.shape[1]], pool.expert(expert))
    return out


FORMATS = [
    ("w4a8:64", "w4a8:64"),
    ("w4a8:32:zeros", "w4a8:128:zeros:fp16"),
    ("w8a8:128", "w4a8:32:p2"),
    ("w4a8:64:fp16:zeros:p4", "w8a8:64:zeros"),
]


@pytest.mark.parametrize("formats", FORMATS, ids="/".join)
def test_outputs_are_those_of_the_experts(variant: Variant, formats: tuple[str, str]) -> None:
    pool = random_pool(6, *formats, HIDDEN, INNER)
    frames = frames_of(pool)
    for rows, chosen in ((1, [0, 1, 2, 3, 4, 5]), (1, [3]), (5, [1, 4]), (21, [0, 2, 5]), (3, list(range(6)))):
        x, ids = random_rows(rows, HIDDEN, rows), routed(rows, 6)
        used = [e for e in chosen if (ids == e).any()]
        outputs = expected(x, ids, used, pool, rows + 2)
        for threads in (1, 2, 3):
            set_all_threads(threads)
            step = tables(x, ids, used, pool, most_rows=rows + 2)
            InPlaceTask(variant, step, frames, shape_of(pool), PER_TOKEN).run()
            assert same_bits(step.outputs, outputs), (rows, used, threads)
            assert step.fault.item() == 0


def test_one_expert_with_all_rows_and_one_with_none(variant: Variant) -> None:
    pool = random_pool(2, "w4a8:64", "w4a8:64", HIDDEN, INNER)
    x, ids = random_rows(19, HIDDEN, 1), torch.zeros(19, 1, dtype=torch.int64)
    step = tables(x, ids, [0, 1], pool)
    InPlaceTask(variant, step, frames_of(pool), shape_of(pool), 1).run()
    assert same_bits(step.outputs, expected(x, ids, [0], pool))


def test_a_task_goes_on_with_what_its_tables_hold_now(variant: Variant) -> None:
    pool = random_pool(6, "w4a8:64", "w4a8:64", HIDDEN, INNER)
    step = tables(random_rows(4, HIDDEN, 1), routed(4, 6), [0], pool)
    task = InPlaceTask(variant, step, frames_of(pool), shape_of(pool), PER_TOKEN)
    experts = 0
    for seed in range(5):
        x, ids = random_rows(4, HIDDEN, seed), routed(4, 6).roll(seed, 0)
        chosen = ids.unique().tolist()[: seed + 1]
        now = tables(x, ids, chosen, pool)
        for name in ("words", "pairs", "q", "scales", "outputs"):
            getattr(step, name).copy_(getattr(now, name))
        task.run()
        experts += len(chosen)
        assert same_bits(step.outputs, expected(x, ids, chosen, pool))
        assert (task.counters.calls, task.counters.experts) == (seed + 1, experts)
    assert 0 < task.counters.seconds < 10


def test_no_experts_cost_nothing(variant: Variant) -> None:
    pool = random_pool(1, "w4a8:64", "w4a8:64", HIDDEN, INNER)
    step = tables(random_rows(2, HIDDEN, 1), routed(2, 6), [], pool)
    step.words[1] = 0
    task = InPlaceTask(variant, step, frames_of(pool), shape_of(pool), PER_TOKEN)
    task.run()
    assert (step.outputs == UNWRITTEN).all()
    assert step.fault.item() == 0
    assert (task.counters.calls, task.counters.experts, task.counters.seconds) == (1, 0, 0.0)
    task.check_fault()


def test_what_is_not_finite_within_sets_the_fault(variant: Variant) -> None:
    pool = random_pool(2, "w4a8:64", "w4a8:64", HIDDEN, INNER)
    pool.expert(1).gate_up.scale_plane.fill_(3e38)
    x, ids = random_rows(3, HIDDEN, 1), torch.tensor([[0], [1], [0]])
    for chosen, fault in (([0], 0), ([0, 1], abi.NONFINITE)):
        step = tables(x, ids, chosen, pool)
        task = InPlaceTask(variant, step, frames_of(pool), shape_of(pool), 1)
        task.run()
        assert step.fault.item() == fault
    with pytest.raises(NonFiniteError):
        task.check_fault()


@pytest.mark.parametrize(
    ("table", "at", "value"),
    [
        ("words", 0, 9),
        ("words", 0, -1),
        ("words", 1, 0),
        ("words", 1, 6),
        ("words", 2, 2),
        ("words", 2, -1),
        ("words", 3, -1),
        ("words", 4, 4),
        ("pairs", 0, 3),
        ("pairs", 0, -1),
    ],
)
def test_tables_that_name_what_is_not_there_are_a_fault(table: str, at: int, value: int) -> None:
    pool = random_pool(2, "w4a8:64", "w4a8:64", HIDDEN, INNER)
    step = tables(random_rows(3, HIDDEN, 1), torch.tensor([[0], [1], [0]]), [0, 1], pool, most_rows=5)
    step.pairs[3:] = 0
    task = InPlaceTask(RUNNABLE[0], step, frames_of(pool), shape_of(pool), 1)
    getattr(step, table)[at] = value
    task.run()
    assert step.fault.item() == abi.DAMAGED
    assert (step.outputs == UNWRITTEN).all()
    assert task.counters.experts == 0
    with pytest.raises(RuntimeError, match="not there"):
        task.check_fault()


def test_threads_in_other_ops_at_the_same_time_change_nothing(variant: Variant) -> None:
    pool = random_pool(6, "w4a8:64", "w4a8:64", HIDDEN, INNER)
    frames, shape = frames_of(pool), shape_of(pool)
    matrix = random_matrix(Format.parse("w8a8:64"), 128, HIDDEN, 1)
    set_all_threads(3)
    wrong: list[str] = []

    def compute(seed: int) -> None:
        x, ids = random_rows(4, HIDDEN, seed), routed(4, 6)
        chosen = ids.unique().tolist()
        outputs = expected(x, ids, chosen, pool)
        step = tables(x, ids, chosen, pool)
        task = InPlaceTask(variant, step, frames, shape, PER_TOKEN)
        for _ in range(60):
            step.outputs.fill_(UNWRITTEN)
            task.run()
            if not same_bits(step.outputs, outputs):
                wrong.append(f"task {seed}")

    def multiply() -> None:
        x = random_rows(9, HIDDEN, 7)
        product = reference.linear(x, matrix)
        wrong.extend("linear" for _ in range(150) if not same_bits(products.linear(variant, x, matrix), product))

    threads = [threading.Thread(target=compute, args=(seed,)) for seed in (1, 2)] + [threading.Thread(target=multiply)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_threads_stay_awake_between_calls_for_as_long_as_told() -> None:
    pool = random_pool(1, "w4a8:64", "w4a8:64", HIDDEN, INNER)
    # Enough rows for the other thread to wake up before all is done.
    step = tables(random_rows(900, HIDDEN, 1), torch.zeros(900, 1, dtype=torch.int64), [0], pool)
    set_all_threads(2)

    def busy_after(awake: float) -> float:
        """Seconds of processor time in the tenth of a second after a call."""
        task = InPlaceTask(RUNNABLE[0], step, frames_of(pool), shape_of(pool), 1, awake=awake)
        task.run()
        before = time.process_time()
        time.sleep(0.1)
        return time.process_time() - before

    # On a busy machine the other thread may come too late for a call.
    assert min(busy_after(0.0) for _ in range(5)) < 0.01 < max(busy_after(0.2) for _ in range(8))


def test_checks_of_tables() -> None:
    pool = random_pool(2, "w4a8:64", "w4a8:64", HIDDEN, INNER)
    frames, shape = frames_of(pool), shape_of(pool)
    good = tables(random_rows(3, HIDDEN, 1), routed(3, 2)[:, :1], [0], pool)
    bad = {
        "words": good.words[:-1],
        "pairs": good.pairs.long(),
        "q": good.q[:, :128],
        "scales": good.scales.t().contiguous().t(),
        "outputs": good.outputs[:2],
        "fault": torch.zeros(2, dtype=torch.int32),
    }
    InPlaceTask(RUNNABLE[0], good, frames, shape, 1)
    for name, tensor in bad.items():
        with pytest.raises(ValueError, match=name):
            InPlaceTask(RUNNABLE[0], replace(good, **{name: tensor}), frames, shape, 1)
    with pytest.raises(ValueError, match="per token"):
        InPlaceTask(RUNNABLE[0], good, frames, shape, 0)
    with pytest.raises(ValueError, match="quantise both"):
        InPlaceTask(RUNNABLE[0], good, frames, replace(shape, down=Format.parse("bf16")), 1)
    with pytest.raises(ValueError, match="a frame has 64"):
        InPlaceTask(RUNNABLE[0], good, replace(frames, blob_bytes=64), shape, 1)
    with pytest.raises(ValueError, match="frames"):
        Frames.of(torch.zeros(4, 4))


@pytest.mark.parametrize("nbytes", [64, 4096, 300_008, 524_293])
@pytest.mark.parametrize("columns", [2, 3])
def test_stages_blobs_byte_for_byte(variant: Variant, nbytes: int, columns: int) -> None:
    random = torch.Generator().manual_seed(nbytes)
    blobs = torch.randint(0, 256, (5, nbytes), generator=random, dtype=torch.uint8)
    ring = torch.full((4, nbytes), 7, dtype=torch.uint8)
    moves = torch.full((4, columns), -9, dtype=torch.int32)
    moves[:3, 0], moves[:3, 1] = torch.tensor([4, 0, 3]), 99
    count, fault = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    task = StageTask(variant, count, moves, Frames.of(blobs), ring, fault)
    task.run()
    assert (ring == 7).all()
    assert (task.counters.calls, task.counters.blobs, task.counters.bytes, task.counters.seconds) == (1, 0, 0, 0.0)
    count[0] = 3
    for threads in (1, 3):
        set_all_threads(threads)
        ring.fill_(7)
        task.run()
        assert torch.equal(ring[:3], blobs[[4, 0, 3]])
        assert (ring[3] == 7).all()
    assert (task.counters.calls, task.counters.blobs, task.counters.bytes) == (3, 6, 6 * nbytes)
    assert task.counters.seconds > 0
    task.check_fault()


def test_staging_moves_that_cannot_be_are_a_fault() -> None:
    blobs, ring = torch.zeros(2, 64, dtype=torch.uint8), torch.ones(2, 64, dtype=torch.uint8)
    for total, frame in ((3, 0), (-1, 0), (1, 2), (1, -1)):
        count, moves = torch.tensor([total], dtype=torch.int32), torch.tensor([[frame, 0]] * 2, dtype=torch.int32)
        fault = torch.zeros(1, dtype=torch.int32)
        task = StageTask(RUNNABLE[0], count, moves, Frames.of(blobs), ring, fault)
        task.run()
        assert fault.item() == abi.DAMAGED
        assert (ring == 1).all()
        assert task.counters.bytes == 0
        with pytest.raises(RuntimeError, match="not there"):
            task.check_fault()


def test_checks_of_staging() -> None:
    one, frames = torch.zeros(1, dtype=torch.int32), Frames.of(torch.zeros(2, 64, dtype=torch.uint8))
    moves, ring = torch.zeros(3, 2, dtype=torch.int32), torch.zeros(3, 64, dtype=torch.uint8)
    StageTask(RUNNABLE[0], one, moves, frames, ring, one)
    for name, arguments in {
        "ring": (one, moves, frames, ring[:2], one),
        "moves": (one, moves.long(), frames, ring, one),
        "count": (one.long(), moves, frames, ring, one),
        "fault": (one, moves, frames, ring, torch.zeros(1)),
        "slot": (one, moves[:, :1].contiguous(), frames, ring, one),
    }.items():
        with pytest.raises(ValueError, match=name):
            StageTask(RUNNABLE[0], *arguments)


@pytest.mark.parametrize("structure", [abi.CInPlaceTask, abi.CStageTask], ids=lambda s: s.__name__)
def test_ctypes_has_the_fields_of_the_header(structure: type[ctypes.Structure], tmp_path: Path) -> None:
    name = {"CInPlaceTask": "aa_in_place_task", "CStageTask": "aa_stage_task"}[structure.__name__]
    fields = [field[0] for field in structure._fields_]
    lines = [f'printf("%zu %zu\\n", offsetof({name}, {f}), sizeof((({name}*)0)->{f}));' for f in fields]
    source = tmp_path / "offsets.cpp"
    source.write_text(
        f'#include "abi.h"\n#include <cstddef>\n#include <cstdio>\nint main() {{ {" ".join(lines)} '
        f'printf("%zu\\n", sizeof({name})); }}'
    )
    program = tmp_path / "offsets"
    subprocess.run(["g++", f"-I{build.SOURCES}", str(source), "-o", str(program)], check=True)
    *found, size = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.splitlines()
    assert found == [f"{getattr(structure, f).offset} {getattr(structure, f).size}" for f in fields]
    assert int(size) == ctypes.sizeof(structure)
