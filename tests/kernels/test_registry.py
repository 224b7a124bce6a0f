"""Which implementation is chosen, and what is told of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch

from kernels import registry
from kernels.ops import Ops

OPS = [field.name for field in fields(Ops)]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    registry.implementations("linear")
    before = dict(registry._registered)
    yield
    registry._registered.clear()
    registry._registered.update(before)


def refuse(reason: str | None) -> registry.Supports:
    return lambda device, dtype, announce: reason


def add(op: str, name: str, rank: int, reason: str | None) -> Callable[..., Any]:
    function: Callable[..., Any] = lambda *_: name  # noqa: E731
    registry.register(op, name, function, rank=rank, supports=refuse(reason))
    return function


@pytest.mark.parametrize("op", OPS)
def test_every_op_runs_in_plain_torch_anywhere(op: str) -> None:
    # What ranks lower is never the best.
    *_, last = (one for one in registry.implementations(op) if one.rank >= 0)
    assert (last.name, last.rank) == ("torch", 0)
    assert last.supports(torch.device("cuda"), torch.bfloat16, None) is None


def test_the_best_that_is_supported_is_chosen_and_the_others_say_why_not() -> None:
    add("linear", "fastest", 1000, "it needs a quantum computer")
    good = add("linear", "fast", 999, None)
    choice = registry.choose("cpu")
    assert choice.ops.linear is good
    assert choice.names["linear"] == "fast"
    assert registry.Refusal("linear", "fastest", "it needs a quantum computer") in choice.refusals


def test_only_those_named_are_considered() -> None:
    assert set(registry.choose("cpu", only="torch").names.values()) == {"torch"}
    add("linear", "c++ avx512vnni", 1000, None)
    with pytest.raises(LookupError, match="no implementation of"):
        registry.choose("cpu", only="c++ avx512vnn")


def test_what_takes_seconds_is_announced() -> None:
    heard: list[str] = []

    def slow(device: torch.device, dtype: torch.dtype, announce: registry.Announce | None) -> None:
        assert announce is not None
        announce("compiling")

    registry.register("linear", "slow", lambda *_: None, rank=1000, supports=slow)
    registry.choose("cpu", announce=heard.append)
    assert heard == ["compiling"]


def test_another_residual_type_gets_other_kernels() -> None:
    assert registry.choose("cpu", torch.bfloat16).names["experts"] == "torch"
    refusals = registry.choose("cpu", torch.bfloat16).refusals
    assert any("float32" in refusal.reason for refusal in refusals)


def test_plain_torch_alone_is_announced_with_the_reasons() -> None:
    heard: list[str] = []
    registry.choose("cpu", torch.bfloat16, announce=heard.append)
    assert len(heard) == 1
    assert "plain torch computes" in heard[0]
    assert "float32" in heard[0]
