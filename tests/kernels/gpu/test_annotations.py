"""What mypy is not asked to demand in kernels/gpu: every function that is no kernel says its types."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "kernels" / "gpu"


def untyped(source: str) -> Iterator[str]:
    """Functions without all of their types that triton.jit does not compile."""
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef) or any(
            "triton.jit" in ast.unparse(d) for d in function.decorator_list
        ):
            continue
        given = function.args
        arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        bare = [one.arg for one in arguments if one and not one.annotation and one.arg not in ("self", "cls")]
        if bare or function.returns is None:
            yield function.name


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.stem)
def test_functions_say_their_types(file: Path) -> None:
    assert not list(untyped(file.read_text(encoding="utf-8")))


def test_one_that_does_not_is_noticed() -> None:
    source = "@triton.jit\ndef kernel(p_x): ...\ndef host(x): ...\ndef other(self, x: int): ...\ndef fine(*x: int) -> None: ..."
    assert list(untyped(source)) == ["host", "other"]
