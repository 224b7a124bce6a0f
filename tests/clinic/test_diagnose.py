"""The pipeline with a scripted model: what is sent, what comes back, retries, statuses and the envelope."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from antangel_cli.clinic.budget import ANSWER_TOKENS, FORCED_TOKENS, plan_budget
from antangel_cli.clinic.checks.urgency import final_urgency, highest
from antangel_cli.clinic.diagnose import DiagnoseOptions, DiagnoseRun, diagnose
from antangel_cli.clinic.equality import differences
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.model import Piece, Sampling
from antangel_cli.clinic.notice import NOTICE
from antangel_cli.clinic.schemas import schema
from tests.clinic.cases import adult, make_case, prose, vitals
from tests.clinic.scripted import PIECE, Script, ScriptedModel, answer, diagnosis, model_saying

SECRET = "Zyxwvut"
GOOD = json.dumps(answer())


def run(*answers: Any, case: Any = None, options: DiagnoseOptions | None = None, **about: Any) -> dict[str, Any]:
    record = diagnose(case or adult(), options or DiagnoseOptions(), model_saying(*answers, **about))
    jsonschema.validate(record, schema("result"))
    return record


def test_ok() -> None:
    record = run(answer())
    assert (record["status"], record["degraded"], record["error"], record["agreement"]) == (
        "ok",
        [],
        None,
        None,
    )
    assert record["schema"] == "antangel.ddx/1"
    assert record["id"] == "t"
    assert record["notice"] == NOTICE["en"]
    assert record["result"] == json.loads(GOOD)
    assert list(record["result"]) == list(answer())
    assert record["urgency_final"] == "soon"


def test_every_run_has_its_own_id() -> None:
    assert run()["run_id"] != run()["run_id"]


def test_a_run_has_one_record() -> None:
    model = model_saying()
    started = DiagnoseRun(adult(), DiagnoseOptions(), model)
    while not started.done:
        for piece in model.step():
            started.feed(piece)
    assert started.record() is started.record()


def test_no_record_before_the_end() -> None:
    with pytest.raises(RuntimeError, match="not done"):
        DiagnoseRun(adult(), DiagnoseOptions(), model_saying()).record()


def test_what_is_sent() -> None:
    model = model_saying()
    diagnose(
        adult(question="Which first?", gold={"diagnosis": SECRET}),
        DiagnoseOptions(reasoning_tokens=100),
        model,
    )
    (task,) = model.tasks
    assert [turn.role for turn in task.turns] == ["system", "user"]
    assert "F2 [complaint] cough" in task.turns[1].content
    assert "[question] Which first?" in task.turns[1].content
    assert SECRET not in task.turns[1].content
    assert (task.text_tokens, task.answer_tokens) == (100, ANSWER_TOKENS)
    assert task.schema is not None
    assert task.schema["properties"]["red_flags"]["items"]["properties"]["fact_ids"]["items"] == {"enum": ["F1", "F2"]}


def test_reasoning_off() -> None:
    model = model_saying()
    record = diagnose(adult(), DiagnoseOptions(reasoning="off"), model)
    assert model.tasks[0].text_tokens == 0
    assert record["provenance"]["sampling"]["reasoning"] is None
    assert record["provenance"]["tokens"]["reasoning"] == 0


@pytest.mark.parametrize(("reasoning", "shown"), [("show", True), ("hide", False), ("off", False)])
def test_reasoning_is_shown_only_when_asked_for(reasoning: Any, shown: bool) -> None:
    model = ScriptedModel([Script(GOOD, reasoning="Give 5 mg of something.")])
    record = diagnose(adult(), DiagnoseOptions(reasoning=reasoning), model)
    assert ("something" in json.dumps(record)) == shown
    assert "5 mg" not in json.dumps(record)


def test_pieces_are_seen_as_they_come() -> None:
    seen: list[Piece] = []
    diagnose(adult(), DiagnoseOptions(), model_saying(), seen.append)
    assert "".join(piece.text for piece in seen if piece.stage == "answer") == model_saying().scripts[0].answer
    assert seen[-1].finish == "stop"


def test_pieces_of_other_tasks_are_ignored() -> None:
    model = model_saying()
    one, two = (DiagnoseRun(make_case(id=i), DiagnoseOptions(), model) for i in ("a", "b"))
    while not (one.done and two.done):
        for piece in model.step():
            one.feed(piece)
            two.feed(piece)
    assert one.tasks != two.tasks
    assert [r.record()["id"] for r in (one, two)] == ["a", "b"]
    assert one.record()["provenance"]["tokens"] == two.record()["provenance"]["tokens"]


BAD = [
    "",
    "{",
    "not json",
    "{}",
    json.dumps({**answer(), "extra": SECRET}),
    json.dumps({**answer(), "urgency": SECRET}),
    json.dumps(answer(diagnosis("A", supporting=[{"fact_id": "F99", "why": SECRET}]), diagnosis("B"), diagnosis("C"))),
    json.dumps({**answer(), "differential": []}),
    json.dumps(answer(*[diagnosis(str(i)) for i in range(6)])),
]


@pytest.mark.parametrize("bad", BAD)
def test_one_retry_then_error(bad: str) -> None:
    model = ScriptedModel([Script(bad)])
    record = diagnose(adult(vitals=vitals(respiratory_rate=30)), DiagnoseOptions(sampling=Sampling(seed=7)), model)
    jsonschema.validate(record, schema("result"))
    assert [task.sampling.seed for task in model.tasks] == [7, 1007]
    assert (record["status"], record["result"]) == ("error", None)
    assert (record["error"]["code"], record["error"]["stage"], record["error"]["retryable"]) == (
        "bad_answer",
        "answer",
        True,
    )
    assert SECRET not in json.dumps(record)
    assert record["urgency_final"] == "urgent"
    assert record["checks"]["news2"]["score"] == 3


@pytest.mark.parametrize("bad", BAD)
def test_a_retry_that_works_is_degraded(bad: str) -> None:
    record = run(bad, answer())
    assert (record["status"], record["degraded"]) == ("degraded", ["retry"])
    assert record["provenance"]["attempts"] == 2
    assert record["provenance"]["seed"] == 0
    assert record["provenance"]["sampling"]["answer"]["seed"] == 1000


@pytest.mark.parametrize(
    ("finish", "code", "tries"),
    [
        ("length", "too_long_answer", 2),
        ("timeout", "timeout", 1),
        ("abort", "aborted", 1),
        ("error", "generation_failed", 2),
    ],
)
@pytest.mark.parametrize("stage", ["text", "answer"])
def test_tasks_that_end_badly(finish: Any, code: str, tries: int, stage: Any) -> None:
    model = ScriptedModel([Script(GOOD[:50], finish=finish, ends_in=stage)])
    record = diagnose(adult(), DiagnoseOptions(), model)
    jsonschema.validate(record, schema("result"))
    assert (record["status"], record["error"]["code"], len(model.tasks)) == ("error", code, tries)
    assert record["error"]["stage"] == {"text": "reasoning", "answer": "answer"}[stage]


def test_a_timeout_is_degraded_and_carries_the_checks() -> None:
    model = ScriptedModel([Script("", finish="timeout", ends_in="text")])
    record = diagnose(prose("Thunderclap headache."), DiagnoseOptions(timeout_s=60), model)
    assert "timeout" in record["degraded"]
    assert record["urgency_final"] == "emergency"
    assert record["checks"]["rule_red_flags"]


def test_time_is_shared_by_both_tries() -> None:
    model = ScriptedModel([Script("bad"), Script(GOOD)])
    diagnose(adult(), DiagnoseOptions(timeout_s=60), model)
    first, second = (task.timeout_s for task in model.tasks)
    assert first is not None
    assert second is not None
    assert second < first <= 60


def test_no_second_try_when_the_time_is_over() -> None:
    model = ScriptedModel([Script("bad")])
    record = diagnose(adult(), DiagnoseOptions(timeout_s=0.0), model)
    assert (record["status"], len(model.tasks)) == ("error", 1)


@pytest.mark.parametrize("answers", [[answer()], ["bad", answer()]])
def test_a_demonstration_is_never_ok(answers: list[Any]) -> None:
    record = run(*answers, demonstration=True)
    assert record["status"] == "demonstration"
    assert record["degraded"] == (["retry"] if len(answers) == 2 else [])
    assert record["provenance"]["model"]["demonstration"] is True


def test_a_failed_demonstration_is_an_error() -> None:
    assert run("bad", demonstration=True)["status"] == "error"


def test_a_model_cannot_hide_that_it_is_a_demonstration() -> None:
    record = run(demonstration=True, provenance={"demonstration": False, "name": "real"})
    assert record["provenance"]["model"] == {"demonstration": True, "name": "scripted"}


def test_reasons_add_up() -> None:
    case = adult(vitals=vitals(temperature=370))
    two = answer(diagnosis("A"), diagnosis("a"), diagnosis("B"))
    record = run("bad", two, case=case)
    assert record["degraded"] == ["implausible_set_aside", "retry", "fewer_than_three_diagnoses"]
    assert record["checks"]["set_aside"][0]["path"] == "vitals[6]"


def test_accepting_the_implausible() -> None:
    record = run(case=adult(vitals=vitals(temperature=370)), options=DiagnoseOptions(accept_implausible=True))
    assert record["status"] == "ok"
    assert record["checks"]["implausible_accepted"]


@pytest.mark.parametrize(
    ("floor", "answered", "final"),
    [
        (None, "routine", "routine"), ("urgent", "routine", "urgent"), ("urgent", "emergency", "emergency"),
        ("urgent", "undetermined", "urgent"), (None, "undetermined", "undetermined"), (None, None, "undetermined"),
        ("soon", None, "soon"), ("emergency", "self_care", "emergency"),
    ],
)  # fmt: skip
def test_final_urgency(floor: str | None, answered: str | None, final: str) -> None:
    assert final_urgency(floor, answered) == final


def test_highest_of_nothing() -> None:
    assert highest([None, "undetermined"]) is None


def test_the_model_can_raise_but_not_lower() -> None:
    urgent = adult(vitals=vitals(respiratory_rate=30))
    assert run(answer(urgency="routine"), case=urgent)["urgency_final"] == "urgent"
    assert run(answer(urgency="emergency"), case=urgent)["urgency_final"] == "emergency"


def test_language_option() -> None:
    model = model_saying()
    record = diagnose(adult(), DiagnoseOptions(lang="zh"), model)
    assert record["language"] == "zh"
    assert record["notice"] == NOTICE["zh"]
    assert "F2 [主诉] cough" in model.tasks[0].turns[1].content


def test_max_dx() -> None:
    model = model_saying(answer(*[diagnosis(str(i)) for i in range(8)]))
    record = diagnose(adult(), DiagnoseOptions(max_dx=8), model)
    assert len(record["result"]["differential"]) == 8
    assert model.tasks[0].schema is not None
    assert model.tasks[0].schema["properties"]["differential"]["maxItems"] == 8


def test_too_long_is_refused_with_the_counts() -> None:
    model = model_saying(context=1300)
    with pytest.raises(InputError) as caught:
        DiagnoseRun(adult(), DiagnoseOptions(), model)
    assert "600 tokens" in caught.value.message
    assert "1300 fit" in caught.value.message
    assert "100 tokens" in caught.value.remedy
    assert model.tasks == []


@pytest.mark.parametrize("context", [1400, 2000, 4096, 8192, 32768])
@pytest.mark.parametrize("reasoning", ["hide", "off"])
def test_budget_fits_the_context(context: int, reasoning: Any) -> None:
    budget = plan_budget(600, context, 0 if reasoning == "off" else 2048)
    assert budget.prompt + budget.reasoning + budget.answer + FORCED_TOKENS <= context
    assert budget.answer >= 768
    assert (budget.reasoning == 0) == (reasoning == "off") or context == 1400


def test_an_empty_case_is_refused() -> None:
    with pytest.raises(InputError, match="states nothing"):
        DiagnoseRun(make_case(chief_complaint=None), DiagnoseOptions(), model_saying())


def test_abort() -> None:
    model = model_saying()
    started = DiagnoseRun(adult(), DiagnoseOptions(), model)
    started.abort()
    assert model.aborted == list(started.tasks)
    assert started.record()["error"]["code"] == "aborted"


def test_gold_changes_nothing() -> None:
    plain, scored = (run(case=adult(**about)) for about in ({}, {"gold": {"x": SECRET}}))
    assert plain["provenance"]["input_hmac"] == scored["provenance"]["input_hmac"]
    assert SECRET not in json.dumps(scored)


def test_provenance_is_whole() -> None:
    record = run(answer(), options=DiagnoseOptions(sampling=Sampling(seed=5, temperature=0.3)))
    made = record["provenance"]
    assert made["tool"]["version"] == "0.1.0"
    assert made["prompt"]["id"] == "diagnose"
    assert made["rules"]["reviewed"] is False
    assert made["sampling"]["reasoning"]["temperature"] == 0.3
    assert made["sampling"]["answer"]["temperature"] == 0.0
    assert made["tokens"]["prompt"] == 600
    assert made["tokens"]["answer"] == math.ceil(len(model_saying(answer()).scripts[0].answer) / PIECE)
    assert made["timings"]["total_s"] >= made["timings"]["first_token_s"] >= 0


def test_equal_runs_are_equal() -> None:
    one, other = (run() for _ in range(2))
    assert differences(one, other) == []
    assert one["run_id"] != other["run_id"]


def test_nothing_shows_a_patients_words() -> None:
    model = model_saying()
    case = adult(narrative=SECRET, labs=[{"name": "potassium", "value": SECRET, "unit": "mmol/L"}])
    started = DiagnoseRun(case, DiagnoseOptions(), model)
    shown = [
        started,
        started.checks,
        started.facts,
        [vars(sample) for sample in started.samples],
        started.question,
        model.tasks,
        replace(started.checks),
        started.prompt,
    ]
    assert SECRET not in repr(shown) + str(shown)


def test_the_examples_run(tmp_path: Path) -> None:
    from antangel_cli.clinic.readers import read_case
    from tests.clinic.cases import EXAMPLES

    floors = {}
    for path in sorted(EXAMPLES.glob("*.json")):
        record = run(case=read_case(path.read_bytes(), path.name))
        floors[path.stem] = (
            record["urgency_final"],
            [warning["code"] for warning in record["checks"]["input_warnings"]],
            record["checks"]["set_aside"],
        )
    # A D-dimer in mg/L may count fibrinogen-equivalent units or not.
    doubtful = {"calf-swelling": ["unit_ambiguous"]}
    assert floors == {name: ("emergency", doubtful.get(name, []), []) for name in floors}
    assert len(floors) == 6


def test_facts_say_where_they_stood() -> None:
    case = adult()
    case._sources["chief_complaint"] = "Bundle.entry[1]"
    assert [fact["source"] for fact in run(case=case)["facts"]] == [None, "Bundle.entry[1]"]
