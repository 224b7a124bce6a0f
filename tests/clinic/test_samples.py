"""Several answers to one case: one batch, seeds that follow each other, agreement, and what a failed one does."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from antangel_cli.clinic.diagnose import DiagnoseOptions, DiagnoseRun, diagnose
from antangel_cli.clinic.model import Sampling
from antangel_cli.clinic.schemas import schema
from antangel_cli.clinic.writers import write
from tests.clinic.cases import adult
from tests.clinic.scripted import Script, ScriptedModel, answer, diagnosis, model_saying

FAILS = Script("", finish="error", ends_in="text")


def ranked(*names: str, **about: Any) -> dict[str, Any]:
    """An answer with diagnoses of these names, in this order."""
    return answer(*(diagnosis(name) for name in names), **about)


def good(*names: str) -> Script:
    return Script(json.dumps(ranked(*names)))


def sampled(model: ScriptedModel, samples: int, **about: Any) -> dict[str, Any]:
    record = diagnose(adult(), DiagnoseOptions(samples=samples, **about), model)
    jsonschema.validate(record, schema("result"))
    return record


def test_all_samples_are_submitted_at_once_with_seeds_that_follow() -> None:
    model = model_saying()
    DiagnoseRun(adult(), DiagnoseOptions(samples=4, sampling=Sampling(seed=9)), model)
    assert [task.sampling.seed for task in model.tasks] == [9, 10, 11, 12]
    assert len({task.turns for task in model.tasks}) == 1


def test_one_sample_has_no_agreement() -> None:
    assert sampled(model_saying(), 1)["agreement"] is None


def test_agreement_counts_the_top_three_of_each_run() -> None:
    model = model_saying(
        ranked("A", "B", "C", "D"), ranked("a.", "C", "B"), ranked("E", "A (acute)", "D"), ranked("E", "F", "A")
    )
    found = sampled(model, 4)["agreement"]
    assert (found["samples"], found["completed"]) == (4, 4)
    assert found["diagnoses"] == [
        {"name": "A", "share": 1.0, "runs": 4},
        {"name": "B", "share": 0.5, "runs": 2},
        {"name": "C", "share": 0.5, "runs": 2},
        {"name": "D", "share": 0.25, "runs": 1},
    ]
    assert found["others"] == [{"name": "E", "share": 0.5, "runs": 2}]


def test_agreement_goes_by_the_first_code_before_the_name() -> None:
    one = answer(diagnosis("Heart attack", codes=["I21.9"]), diagnosis("B"), diagnosis("C"))
    other = answer(diagnosis("Myocardial infarction", codes=["I21.9"]), diagnosis("X"), diagnosis("Y"))
    found = sampled(model_saying(one, other), 2)["agreement"]
    assert [entry["runs"] for entry in found["diagnoses"]] == [2, 1, 1]
    assert [entry["name"] for entry in found["others"]] == ["X", "Y"]


def test_the_first_sample_is_shown() -> None:
    record = sampled(model_saying(ranked("A", "B", "C"), ranked("D", "E", "F")), 2)
    assert (record["status"], record["degraded"]) == ("ok", [])
    assert record["result"]["differential"][0]["name"] == "A"
    assert record["provenance"]["sample"] == 0


def test_a_failed_first_sample_gives_way_to_the_next() -> None:
    # The first sample fails twice: its second try is the third task.
    model = ScriptedModel([FAILS, good("D", "E", "F"), FAILS])
    record = sampled(model, 2, sampling=Sampling(seed=3))
    assert record["result"]["differential"][0]["name"] == "D"
    assert (record["status"], record["degraded"]) == ("degraded", ["samples_failed"])
    assert record["error"] is None
    assert (record["provenance"]["sample"], record["provenance"]["seed"]) == (1, 3)
    assert record["provenance"]["sampling"]["reasoning"]["seed"] == 4
    assert (record["agreement"]["samples"], record["agreement"]["completed"]) == (2, 1)


def test_all_samples_failed_is_an_error() -> None:
    record = sampled(ScriptedModel([FAILS]), 3)
    assert (record["status"], record["error"]["code"], record["agreement"]) == ("error", "generation_failed", None)
    assert "samples_failed" in record["degraded"]


def test_a_timeout_of_one_sample_is_said() -> None:
    model = ScriptedModel([good("A", "B", "C"), Script("", finish="timeout", ends_in="text")])
    assert sampled(model, 2)["degraded"] == ["timeout", "samples_failed"]


def test_a_demonstration_lists_its_reasons_and_keeps_its_status() -> None:
    model = ScriptedModel([good("A", "B", "C"), FAILS], demonstration=True)
    record = sampled(model, 2)
    assert (record["status"], record["degraded"]) == ("demonstration", ["samples_failed"])


@pytest.mark.parametrize(("lang", "said"), [("en", "another sample"), ("zh", "另一次采样")])
def test_a_higher_urgency_of_another_sample_raises(lang: str, said: str) -> None:
    model = model_saying(ranked("A", "B", "C", urgency="soon"), ranked("A", "B", "C", urgency="emergency"))
    record = sampled(model, 2, lang=lang)
    assert (record["urgency_final"], record["result"]["urgency"]) == ("emergency", "soon")
    remarks = [r for r in record["checks"]["answer_remarks"] if r["check"] == "sample_urgency"]
    assert said in remarks[0]["message"]


def test_a_lower_urgency_of_another_sample_changes_nothing() -> None:
    model = model_saying(ranked("A", "B", "C", urgency="urgent"), ranked("A", "B", "C", urgency="self_care"))
    record = sampled(model, 2)
    assert record["urgency_final"] == "urgent"
    assert not any(r["check"] == "sample_urgency" for r in record["checks"]["answer_remarks"])


def test_abort_stops_every_sample() -> None:
    model = model_saying()
    run = DiagnoseRun(adult(), DiagnoseOptions(samples=3), model)
    run.abort()
    assert run.done
    assert model.aborted == list(run.tasks) == [1, 2, 3]


@pytest.mark.parametrize(
    ("options", "alike"),
    [
        (DiagnoseOptions(), None),
        (DiagnoseOptions(reasoning="off"), "--reasoning off"),
        (DiagnoseOptions(sampling=Sampling(temperature=0)), "--temperature 0"),
    ],
)
def test_what_makes_samples_alike(options: DiagnoseOptions, alike: str | None) -> None:
    assert options.alike == alike


def test_what_only_other_runs_name_is_on_the_page() -> None:
    case = adult()
    model = model_saying(ranked("A", "B", "C"), ranked("E", "A", "B"))
    record = diagnose(case, DiagnoseOptions(samples=2), model)
    page = write(record, case, "text", width=100)
    assert "1. A - possible (in the top three of 2 of 2 runs)" in page
    assert "other runs name: E (in the top three of 1 of 2 runs)" in page
    assert "2次采样中2次列入前三" in write(record, case, "text", width=100, lang="zh")


def test_the_first_token_of_any_sample_is_the_first() -> None:
    model = model_saying()
    run = DiagnoseRun(adult(), DiagnoseOptions(samples=2), model)
    while not run.done:
        for piece in model.step():
            run.feed(piece)
    run.samples[0].last.first_s, run.samples[1].last.first_s = 2.0, 1.0
    assert run.record()["provenance"]["timings"]["first_token_s"] == 1.0
