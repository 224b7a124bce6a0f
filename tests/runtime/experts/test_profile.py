"""Routing totals from run to run: never a wrong number, never more than totals, and never in anyone else's hands."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.experts.profile import load_profile, save_profile
from tests.runtime.experts.blobs import COUNT, GEOMETRY, LAYERS

USES = np.arange(GEOMETRY.blobs, dtype=np.int64)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "profiles" / "tiny.json"


def loaded(path: Path) -> list[int]:
    totals = load_profile(path, GEOMETRY)
    assert totals is not None
    assert totals.dtype == np.int64
    values: list[int] = totals.tolist()
    return values


def test_what_was_saved_is_loaded(path: Path) -> None:
    save_profile(path, GEOMETRY, USES)
    assert loaded(path) == USES.tolist()


def test_it_holds_totals_by_layer_and_nothing_else(path: Path) -> None:
    save_profile(path, GEOMETRY, USES)
    content = json.loads(path.read_text())
    assert content.keys() == {"version", "totals"}
    assert np.array(content["totals"]).shape == (LAYERS, COUNT)
    assert content["totals"][1][2] == COUNT + 2


def test_earlier_runs_count_half(path: Path) -> None:
    for expected in (USES, USES + USES // 2, USES + (USES + USES // 2) // 2):
        save_profile(path, GEOMETRY, USES)
        assert loaded(path) == expected.tolist()


def test_only_its_owner_reads_it_and_nothing_is_left_beside_it(path: Path) -> None:
    umask = os.umask(0)
    try:
        save_profile(path, GEOMETRY, USES)
        save_profile(path, GEOMETRY, USES)
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_one_that_cannot_be_written_leaves_the_old_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_profile(path, GEOMETRY, USES)

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_profile(path, GEOMETRY, USES)
    assert loaded(path) == USES.tolist()
    assert list(path.parent.iterdir()) == [path]


def test_it_is_on_the_disk_before_it_has_its_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []

    def sync(file: int) -> None:
        assert not path.exists()
        synced.append(os.fstat(file).st_size)

    monkeypatch.setattr(os, "fsync", sync)
    save_profile(path, GEOMETRY, USES)
    assert synced == [path.stat().st_size]


GOOD: dict[str, Any] = {"version": 1, "totals": [[1] * COUNT] * LAYERS}


def test_the_one_that_the_bad_ones_are_made_from_is_good(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(json.dumps(GOOD))
    assert loaded(path) == [1] * GEOMETRY.blobs


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        '"totals"',
        "{}",
        json.dumps({"version": 1}),
        json.dumps({"totals": GOOD["totals"]}),
        json.dumps(GOOD | {"version": 2}),
        json.dumps(GOOD | {"totals": GOOD["totals"][:-1]}),
        json.dumps(GOOD | {"totals": [[1] * COUNT, [1] * COUNT, [1]]}),
        json.dumps(GOOD | {"totals": [[1] * (COUNT - 1) + [-1]] * LAYERS}),
        json.dumps(GOOD | {"totals": [["many"] * COUNT] * LAYERS}),
        json.dumps(GOOD | {"totals": [[1 << 70] * COUNT] * LAYERS}),
        json.dumps(GOOD | {"totals": [[None] * COUNT] * LAYERS}),
        json.dumps(GOOD | {"totals": {}}),
        "\udcff",
    ],
)
def test_what_is_no_profile_of_this_model_is_none(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert load_profile(path, GEOMETRY) is None
    save_profile(path, GEOMETRY, USES)
    assert loaded(path) == USES.tolist(), "it is written over"


def test_none_is_there_or_another_models(path: Path) -> None:
    assert load_profile(path, GEOMETRY) is None
    save_profile(path, GEOMETRY, USES)
    assert load_profile(path, replace(GEOMETRY, layers=(1, 2))) is None
    assert load_profile(path, replace(GEOMETRY, count=COUNT + 1)) is None
