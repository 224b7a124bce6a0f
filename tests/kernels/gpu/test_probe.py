"""A GPU is examined before it is trusted: kernels that agree pass, and any that doesn't is found and named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import gpu, registry
from kernels.gpu import OPS, probe, probe_cases, probe_step, runs_on_gpu
from kernels.gpu import policy as policies
from kernels.gpu import route as steps
from kernels.gpu.launch import INTERPRETING
from kernels.gpu.probe import disagreement
from kernels.gpu.route import RouterShape
from tests.kernels.gpu.lane import DEVICE

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes as long as there are programs: fewer experts, ids and columns; a GPU has the real inputs."""
    if not INTERPRETING:
        return
    sizes: dict[Any, dict[str, Any]] = {
        probe_cases: {
            **{"ROWS": (1, 17), "PRODUCT_ROWS": (1, 33), "EXPERT_ROWS": (1, 24), "STEPS": ((3, True),)},
            **{
                "HIDDEN": 128,
                "INNER": 64,
                "OUTPUTS": 16,
                "VOCABULARY": 300,
                "PADDED": 304,
                "CACHES": (torch.bfloat16,),
            },
            **{"HEADS": 2, "WIDTH": 32, "ROTARY": 16, "EXPERTS": 16, "PER_TOKEN": 4, "GROUPS": 4, "GROUPS_KEPT": 2},
        },
        probe_step: {
            **{"ROUTER": RouterShape(4, 4, 2, 2.5), "EXPERTS": 16, "HIDDEN": 32},
            **{"SLOTS": 12, "FILLED": 10, "STEPS": 4, "SUREST": 3, "LARGE": 70_016},
        },
        policies: {"SLOT_CHUNK": 8},
        steps: {"STEPS": 2},
    }
    for module, constants in sizes.items():
        for name, value in constants.items():
            monkeypatch.setattr(module, name, value)


def test_every_op_is_examined() -> None:
    assert set(OPS) < set(probe_cases.CASES)


@pytest.mark.parametrize("op", probe_cases.CASES)
def test_kernels_agree(op: str) -> None:
    assert disagreement(DEVICE, ops=[op]) is None


def flip(tensor: Tensor) -> None:
    """The lowest bit of the last number, as a wrong rounding would."""
    bits = tensor.view(torch.uint8).view(-1, tensor.element_size())
    bits[-1, 0] ^= 1


def flipped(place: int, of: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A launch whose output, the argument at a place or an attribute of it, has a bit that is wrong the first time."""

    def broken(launch: Callable[..., None]) -> Callable[..., None]:
        times: list[int] = []

        def launched(*arguments: Any, **named: Any) -> None:
            launch(*arguments, **named)
            if not times:
                flip(getattr(arguments[place], of) if of else arguments[place])
            times.append(1)

        return launched

    return broken


def dropped(place: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A launch without one of its inputs, such as a residual."""

    def broken(launch: Callable[..., None]) -> Callable[..., None]:
        return lambda *arguments, **named: launch(*arguments[:place], None, *arguments[place + 1 :], **named)

    return broken


def first_rows_only(launch: Callable[..., None]) -> Callable[..., None]:
    """Copies that leave out what the first move brings."""

    def launched(fetches: Any, *rest: Any) -> None:
        fetches.count.sub_(1).clamp_(min=0)
        launch(fetches, *rest)
        fetches.count.add_(1)

    return launched


BROKEN: list[tuple[str, str, Callable[[Callable[..., None]], Callable[..., None]]]] = [
    ("linear", "linear.launch_linear", flipped(2)),
    ("linear", "linear.launch_linear", dropped(3)),
    ("linear", "linear.launch_quantise", flipped(1, "scales")),
    ("linear", "float_linear.launch_float_linear", flipped(2)),
    ("rms_norm", "norm.launch_rms_norm", flipped(3)),
    ("rms_norm", "probe_cases.launch_rms_norm", flipped(4, "q")),
    ("swiglu", "feed_forward.launch_linear", dropped(3)),
    ("swiglu", "feed_forward.launch_gated", flipped(1, "scales")),
    ("route", "route.launch_route", flipped(4)),
    ("route", "route.launch_route", flipped(5)),
    ("experts", "feed_forward.launch_gate_up", flipped(3, "scales")),
    ("experts", "feed_forward.launch_down", flipped(3)),
    ("experts", "feed_forward.launch_combine", flipped(2)),
    ("query_key_value", "query_key_value.launch_heads", flipped(10)),
    ("query_key_value", "query_key_value.launch_heads", flipped(7)),
    ("query_key_value", "query_key_value.launch_heads", flipped(8)),
    ("paged_attention", "prefill_attention.launch_decode_attention", flipped(5)),
    ("paged_attention", "prefill_attention.launch_prefill_attention", flipped(5)),
    ("head", "head.launch_candidates", flipped(2, "ids")),
    ("head", "head.launch_candidates", flipped(2, "totals")),
    ("head", "head.launch_candidates", flipped(2, "all_scores")),
    ("page_in", "probe_step.launch_page_in", flipped(1, "slots")),
    ("page_in", "probe_step.launch_page_in", first_rows_only),
    ("route_step", "probe_step.launch_route_step", flipped(8)),
    ("route_step", "probe_step.launch_route_step", flipped(7, "pairs")),
    ("route_step", "probe_step.launch_route_step", flipped(5, "location")),
    ("route_step", "probe_step.launch_ahead", flipped(4, "moves")),
    ("route_step", "probe_step.launch_ahead", flipped(0, "counters")),
]


@pytest.mark.parametrize(("op", "place", "broken"), BROKEN, ids=[f"{op}-{i}" for i, (op, *_) in enumerate(BROKEN)])
def test_a_broken_launch_is_found(op: str, place: str, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, name = place.partition(".")
    target = getattr(sys.modules[f"kernels.gpu.{module}"], name)
    monkeypatch.setattr(f"kernels.gpu.{place}", broken(target))
    reason = disagreement(DEVICE, ops=[op])
    assert reason is not None
    assert reason.startswith(f"this GPU computes other bits in {op}: ")
    assert "report it" in reason
    assert "\n" not in reason


def test_every_op_is_seen_to_be_broken() -> None:
    assert {op for op, _, _ in BROKEN} == set(probe_cases.CASES)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("Failed to find C compiler. Please specify via CC.\nmore"), "install gcc"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "free some of the GPU's memory"),
        (ValueError("\n\nnobody expects this:\n"), "nobody expects this: update the NVIDIA driver"),
        (KeyError(), "KeyError: update"),
    ],
)
def test_what_cannot_run_is_refused_with_a_remedy(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise error

    monkeypatch.setattr("kernels.gpu.linear.launch_linear", failing)
    reason = disagreement(DEVICE, ops=["linear"])
    assert reason is not None
    assert reason.startswith("the Triton kernels fail here, in linear: ")
    assert words in reason
    assert "\n" not in reason


def test_a_triton_that_is_no_good_is_refused() -> None:
    code = (
        'import sys; sys.modules["triton"] = None\nimport torch\nfrom kernels.gpu.probe import disagreement\n'
        'print(disagreement(torch.device("cpu")))'
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("the Triton kernels fail here, in their import: ")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(("patience", "told"), [(-1.0, 1), (600.0, 0)])
def test_it_is_told_once_that_it_takes_a_while(patience: float, told: int, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr(probe, "PATIENCE", patience)
    assert disagreement(DEVICE, heard.append, ops=["page_in"]) is None
    assert heard == ["compiling and examining the Triton kernels, once"] * told


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Two GPUs as torch tells of them, and what is found of each; every examination is counted."""
    state = SimpleNamespace(found={0: None, 1: "this GPU computes other bits in linear"}, times=[], capability=(8, 9))

    def examine(device: torch.device, announce: Any) -> str | None:
        state.times.append(device.index)
        return state.found[device.index]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: state.capability)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(probe, "disagreement", examine)
    monkeypatch.setattr(probe, "_findings", {})
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return state


def test_a_gpu_is_examined_once(examined: SimpleNamespace) -> None:
    for _ in range(3):
        assert runs_on_gpu(torch.device("cuda:0"), torch.float32, None) is None
        assert runs_on_gpu(torch.device("cuda:1"), torch.float32, None) == examined.found[1]
        assert runs_on_gpu(torch.device("cuda"), torch.float32, None) == examined.found[1]
    assert examined.times == [0, 1]


def test_what_cannot_have_the_kernels_is_not_examined(
    examined: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = torch.device("cuda:0")

    def refusal(device: torch.device = first, dtype: torch.dtype = torch.float32) -> str:
        return str(runs_on_gpu(device, dtype, None))

    assert refusal(torch.device("cpu")) == "the device is no GPU"
    assert "not in bfloat16" in refusal(dtype=torch.bfloat16)
    examined.capability = (7, 5)
    assert "older than compute capability 8.0" in refusal()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "nvidia-smi" in refusal()
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "unset it" in refusal()
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda _: None)
    assert "pip install triton" in refusal()
    assert examined.times == []


def test_a_gpu_that_disagrees_gets_plain_torch_and_says_why(examined: SimpleNamespace) -> None:
    heard: list[str] = []
    good, bad = registry.choose("cuda:0"), registry.choose("cuda:1", announce=heard.append)
    assert set(good.names.values()) == {"triton"}
    assert set(bad.names.values()) == {"torch"}
    assert {one.reason for one in bad.refusals if one.name == "triton"} == {examined.found[1]}
    assert len(heard) == 1
