"""What is made of measured seconds: quantiles, ratios and targets; and the page shows what the JSON holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import table
from bench.figures import Quantiles, decode_targets, measure_json, medians, ratios, shares
from bench.peer_settings import PeerSettings, Tried, best_settings

ROUNDS = [
    {"ours": [0.01, 0.02, 0.01], "peer": [0.03, 0.02, 0.02]},
    {"ours": [0.02, 0.02, 0.04], "peer": [0.05, 0.05, 0.01]},
]


def test_ratios_are_of_the_median_steps_of_one_round() -> None:
    assert medians(ROUNDS, "ours") == [0.01, 0.02]
    assert ratios(ROUNDS, "ours", "peer") == pytest.approx([2.0, 2.5])


def test_rates_are_of_all_steps() -> None:
    figures = measure_json(ROUNDS, 8, ("ours", "peer"), "peer")
    assert figures["tokens_per_s"]["ours"] == {"p20": 400.0, "p50": 400.0, "p80": 800.0}
    assert figures["times_peer"]["ours"]["p50"] == pytest.approx(2.25)
    assert "peer" not in figures["times_peer"]


def test_the_share_is_of_the_bandwidth_of_its_own_round() -> None:
    assert shares(ROUNDS, "ours", 100_000_000, [20.0, 10.0]) == pytest.approx([0.5, 0.5])


def test_one_figure_is_all_its_quantiles() -> None:
    assert Quantiles.of([3.0]) == Quantiles(3.0, 3.0, 3.0)


@pytest.mark.parametrize(
    ("times_peer", "share", "wanted", "met"),
    [
        (1.25, 0.72, 1.2, [True, True]),
        (1.10, 0.72, 1.2, [True, False]),
        (1.25, 0.60, 1.2, [False, True]),
        # 1.2 times this peer would be 98 % of the bandwidth.
        (1.05, 0.86, 0.85, [True, True]),
        (1.05, 0.84, 0.85, [True, False]),
    ],
)
def test_targets_of_decode(times_peer: float, share: float, wanted: float, met: list[bool]) -> None:
    targets = decode_targets(times_peer, share)
    assert [target.target for target in targets] == [0.70, wanted]
    assert [target.to_json()["met"] for target in targets] == met


def test_the_peer_competes_with_the_best_of_its_settings() -> None:
    def tried(mmap: bool, repack: bool, *rates: float) -> Tried:
        return Tried(
            PeerSettings(mmap, repack), dict(zip(("decode", "prefill 512", "decode batch 8"), rates, strict=True))
        )

    best = best_settings(
        [tried(True, True, 60, 200, 90), tried(False, True, 55, 190, 80), tried(True, False, 64, 90, 50)]
    )
    assert best == {
        "decode": PeerSettings(mmap=True, repack=False),
        "prefill 512": PeerSettings(mmap=True, repack=True),
        "decode batch 8": PeerSettings(mmap=True, repack=True),
    }


def test_the_page_shows_what_was_measured() -> None:
    result: dict[str, Any] = json.loads(table.RESULT.read_text(encoding="utf-8"))
    page = table.PAGE.read_text(encoding="utf-8")
    assert page.split(table.MARKS[0])[1].split(table.MARKS[1])[0] == table.render(result)


def test_writing_the_table_leaves_the_rest_of_the_page(tmp_path: Path) -> None:
    result: dict[str, Any] = json.loads(table.RESULT.read_text(encoding="utf-8"))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.MARKS[0]}stale\n{table.MARKS[1]}after\n", encoding="utf-8")
    table.write(result, page)
    assert page.read_text(encoding="utf-8") == f"before\n{table.MARKS[0]}{table.render(result)}{table.MARKS[1]}after\n"
