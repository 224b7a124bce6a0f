"""A recorded result read back: what it asks for, what is refused, and what a second run says of it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.diagnose import DiagnoseOptions, diagnose
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.model import Sampling
from antangel_cli.clinic.replay import PARTS, read_results, replay_report, result_of
from tests.clinic.cases import adult
from tests.clinic.scripted import answer, diagnosis, model_saying

SECRET = "Zyxwvut"
OPTIONS = DiagnoseOptions(
    sampling=Sampling(seed=7, temperature=0.4),
    reasoning="show",
    max_dx=4,
    lang="zh",
    samples=2,
    doses=True,
    redact=True,
)


def made(options: DiagnoseOptions = OPTIONS, *answers: Any, case: Case | None = None) -> dict[str, Any]:
    record = diagnose(case or adult(), options, model_saying(*answers))
    back: dict[str, Any] = json.loads(json.dumps(record))
    return back


def changed(record: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of a result with one value of its provenance changed."""
    copied = copy.deepcopy(record)
    place = copied["provenance"]
    *way, last = path.split(".")
    for key in way:
        place = place[key]
    place[last] = value
    return copied


def test_a_result_says_what_it_was_asked_for() -> None:
    (recorded,) = read_results(json.dumps(made()), "r.json")
    assert recorded.options == OPTIONS
    assert recorded.context == 8192
    assert recorded.model["weights"] == "0" * 64


def test_the_same_again_is_equal() -> None:
    report = replay_report(made(), made())
    assert (report["equal"], report["answer_equal"], report["changed"], report["differences"]) == (True, True, [], [])


def test_an_error_can_be_replayed() -> None:
    failed = made(OPTIONS, "bad")
    assert failed["status"] == "error"
    assert replay_report(failed, made(OPTIONS, "bad"))["equal"]


def test_another_answer_is_named_by_its_paths_without_words() -> None:
    other = made(OPTIONS, answer(diagnosis(SECRET), diagnosis("Second disease"), diagnosis("Third disease")))
    report = replay_report(made(), other)
    assert not report["equal"]
    assert not report["answer_equal"]
    assert report["changed"] == []
    assert "result.differential[0].name" in report["differences"]
    assert SECRET not in json.dumps(report)


CHANGES = {
    "input": ("input_hmac", "f" * 64),
    "model": ("model.weights", "f" * 64),
    "backend": ("model.device", "cuda:0"),
    "prompt": ("prompt.hash", "f" * 64),
    "schema": ("schema.hash", "f" * 64),
    "rules": ("rules.hash", "f" * 64),
    "tool": ("tool.commit", "f" * 40),
    "sampling": ("sampling.answer.seed", 99),
    "options": ("options.context", 99),
}


@pytest.mark.parametrize("part", PARTS)
def test_what_has_changed_is_named(part: str) -> None:
    path, value = CHANGES[part]
    other = changed(made(), path, value)
    report = replay_report(made(), other)
    assert report["changed"] == [part]
    assert report["differences"] == [f"provenance.{path}"]
    assert (report["equal"], report["answer_equal"]) == (False, True)


def test_without_a_key_the_case_cannot_be_told() -> None:
    report = replay_report(changed(made(), "input_hmac", None), made())
    assert (report["changed"], report["unknown"]) == ([], ["input"])


def test_another_case_is_another_input() -> None:
    assert "input" in replay_report(made(), made(case=adult(narrative=SECRET)))["changed"]


def test_lines_of_a_batch_are_told_by_their_case() -> None:
    bare = {"schema": "antangel.ddx/1", "id": None, "line": 2, "status": "error", "error": {}}
    lines = [made(), bare, made(case=adult(id="other"))]
    results = read_results("\n".join(map(json.dumps, lines)) + "\n\n", "out.jsonl")
    assert [r.record["id"] for r in results] == ["t", "other"]
    assert result_of(results, "other", "out.jsonl") is results[1]
    with pytest.raises(InputError, match=r"out.jsonl: No result"):
        result_of(results, "third", "out.jsonl")
    with pytest.raises(InputError, match="More than one"):
        result_of((*results, results[1]), "other", "out.jsonl")


def without(path: str) -> str:
    record = made()
    place = record
    *way, last = path.split(".")
    for key in way:
        place = place[key]
    del place[last]
    return json.dumps(record)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", '"x"', "{}", json.dumps({"schema": "antangel.case/1", "id": SECRET}),
        json.dumps(made())[:-40], without("provenance"), without("provenance.options"), without("run_id"),
        without("provenance.options.context"), without("provenance.input_hmac"), without("provenance.model"),
        json.dumps(changed(made(), "options.max_dx", SECRET)), json.dumps(changed(made(), "options.samples", None)),
        json.dumps({"schema": "antangel.ddx/1", "id": "a", "line": 1, "status": "error"}),
    ],
)  # fmt: skip
def test_what_is_no_result_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(InputError) as caught:
        read_results(text, "r.json")
    assert str(caught.value).startswith("r.json: ")
    assert caught.value.remedy
    assert SECRET not in str(caught.value)
