"""Equality of results: reflexive, symmetric, blind to what differs between runs and to nothing else."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antangel_cli.clinic.equality import canonical, differences
from antangel_cli.clinic.schemas import example

KEYS = st.sampled_from(["run_id", "created", "provenance", "timings", "result", "a", "b"])
LEAVES = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, 0.5]) | st.text(max_size=2)
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS, v, max_size=3), max_leaves=5)
RECORDS = st.dictionaries(KEYS, VALUES, max_size=4)


@settings(max_examples=60, deadline=None)
@given(RECORDS, RECORDS)
def test_no_differences_means_the_same_canonical_text(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert differences(one, copy.deepcopy(one)) == []
    assert (differences(one, other) == []) == (canonical(one) == canonical(other))
    assert differences(one, other) == differences(other, one)


@settings(max_examples=25, deadline=None)
@given(RECORDS)
def test_what_is_written_and_read_again_is_equal(record: dict[str, Any]) -> None:
    assert differences(record, json.loads(json.dumps(record))) == []


@pytest.mark.parametrize("key", ["run_id", "created", "provenance.timings"])
def test_what_differs_between_runs_does_not_count(key: str) -> None:
    assert differences(example("result"), changed(key, "x")) == []


@pytest.mark.parametrize(
    "path", ["status", "result.summary", "provenance.seed", "checks.urgency_floor", "result.differential[1].name"]
)
def test_everything_else_counts_and_is_named(path: str) -> None:
    assert differences(example("result"), changed(path, "Zyxwvut")) == [path]


def test_a_shorter_list_is_named_by_its_place() -> None:
    record = copy.deepcopy(example("result"))
    del record["result"]["differential"][2]
    assert differences(example("result"), record) == ["result.differential[2]"]


def changed(path: str, value: Any) -> dict[str, Any]:
    """The example with one value changed."""
    record: Any = copy.deepcopy(example("result"))
    place = record
    *way, last = [int(k) if k.isdigit() else k for k in path.replace("[", ".").replace("]", "").split(".")]
    for key in way:
        place = place[key]
    place[last] = value
    return record
