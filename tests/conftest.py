"""For all tests: how they hear signals, and where Triton's kernels run."""

import os
import signal

import pytest

# A shell starts background jobs deaf to SIGINT; the tests hear it wherever they are started.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Triton decides between its interpreter and a GPU when a kernel is defined, so that this comes before any import of one.
os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a GPU is skipped where there is none, and where kernels are interpreted."""
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if needing and (reason := _no_gpu()):
        for item in needing:
            item.add_marker(pytest.mark.skip(reason=reason))


def _no_gpu() -> str | None:
    import torch

    if os.environ["TRITON_INTERPRET"] == "1":
        return "kernels are interpreted; `make gpu` runs them on a GPU"
    return None if torch.cuda.is_available() else "torch finds no CUDA device"
