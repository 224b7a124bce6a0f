"""The embedded model runs from a pack that is made at the first use."""

from __future__ import annotations

from pathlib import Path

import pytest

from antangel_cli import load
from antangel_cli.load import kept
from antangel_cli.settings import Settings

ASKED = Settings(device="cpu", threads=1, context=256)


def opened(announced: list[str]) -> dict[str, object]:
    model = load.open_model(ASKED, lambda done, total: None, announce=announced.append)
    model.close()
    return model.provenance


def packings(announced: list[str]) -> int:
    return sum(line.startswith("Packing the nano model") for line in announced)


def test_the_first_use_packs_and_later_ones_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "cache_home", lambda: tmp_path)
    announced: list[str] = []
    first = opened(announced)
    assert first["number_format"] == "experts w4a8:64, dense w8a8:64"
    assert packings(announced) == 1
    assert len(list((tmp_path / "packs").iterdir())) == 1
    assert opened(announced) == first
    assert packings(announced) == 1


def test_a_cache_that_cannot_be_written_costs_the_packing_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("no folder")
    monkeypatch.setattr(kept, "cache_home", lambda: occupied)
    announced: list[str] = []
    assert opened(announced)["number_format"] == "experts w4a8:64, dense w8a8:64"
    opened(announced)
    assert packings(announced) == 2
