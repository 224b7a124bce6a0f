from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.batching import CONCURRENCY, Run, drawn_cases, require_same, result


def written(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return path


def test_results_are_the_same_but_for_what_differs_by_nature(tmp_path: Path) -> None:
    one = written(tmp_path / "one", {"id": "a", "run_id": 1}, {"id": "b", "created": "now"})
    require_same(one, written(tmp_path / "other", {"id": "a", "run_id": 2}, {"id": "b", "created": "then"}))


@pytest.mark.parametrize("others", [[{"id": "a"}, {"id": "c"}], [{"id": "a"}], [{"id": "b"}, {"id": "a"}]])
def test_another_answer_a_missing_line_and_another_order_are_refused(tmp_path: Path, others: list[Any]) -> None:
    one = written(tmp_path / "one", {"id": "a"}, {"id": "b"})
    with pytest.raises(RuntimeError, match=r"differs at id|has 2 results"):
        require_same(one, written(tmp_path / "other", *others))


def test_figures_are_medians_of_rounds_beside_one_at_a_time() -> None:
    start = Run(1.0, 2.0, {})
    rounds = []
    for slow in (1.0, 3.0, 2.0):
        taken = {n: Run(1 + slow * 60 / n, 2 + 120 / n, {"ttft_ms": 10 * slow}).without(start) for n in CONCURRENCY}
        rounds.append(taken)
    figures = result({}, rounds, cases=30)
    of_four = figures["by_concurrency"]["4"]
    assert (of_four["cases_per_min"], of_four["ttft_ms"], of_four["cpu_s_per_case"]) == (60.0, 20.0, 1.0)
    assert (of_four["times_one_at_a_time"], of_four["times_in_cpu_time"]) == (4.0, 4.0)
    assert figures["best_concurrency"] == 32
    assert figures["targets"][0]["met"]


def test_drawn_cases_differ_and_are_in_both_languages() -> None:
    cases = [json.loads(line) for line in drawn_cases(4)]
    assert len({json.dumps({**case, "id": ""}) for case in cases}) == 4
    assert [case.get("language") == "zh" for case in cases] == [False, True, False, True]
