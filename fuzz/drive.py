"""hypothesis draws the inputs: changed documents, and trees, text and bytes of its own."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fuzz.targets import Target
from fuzz.watch import Watch

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_TREES: st.SearchStrategy[Any] = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_CHANGED = 8
"""Of ten inputs, so many are changed documents."""


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """The inputs of a target."""
    made = st.randoms(use_true_random=True).map(target.make)
    foreign = (
        _TREES.map(lambda tree: json.dumps(tree).encode())
        | st.text().map(lambda text: text.encode("utf-8", "replace"))
        | st.binary()
    )
    return st.integers(0, 9).flatmap(lambda i: made if i < _CHANGED else foreign)


def drive(target: Target, watch: Watch, count: int, number: int = 0) -> None:
    """Run so many inputs; what fails is kept by the watch, and all go on."""

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs(target))
    def run(data: bytes) -> None:
        watch.run(target.name, target.run, data)

    run()
