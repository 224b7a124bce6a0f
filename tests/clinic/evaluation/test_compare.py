"""What changed between two runs, and what twins are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.evaluation.compare import changes, outline, read_outlines
from antangel_cli.clinic.evaluation.gold import Gold
from antangel_cli.clinic.evaluation.report import Evaluation, Item
from antangel_cli.clinic.evaluation.stability import instructed, instructions, twins, unchanged
from antangel_cli.clinic.facts import facts
from tests.clinic.cases import checked, make_case
from tests.clinic.evaluation.records import gold_case, record

OLD = record("A", "B", "C")


@pytest.mark.parametrize(
    ("new", "changed"),
    [
        (OLD, None),
        (record("a", "b", "c", "d"), None),
        (record("B", "A", "C"), ["top3"]),
        (record("A", "B", "C", urgency="soon"), ["urgency_final"]),
        (record("A", "B", "C", status="degraded"), ["status"]),
        (record("A", "B", "C", checks={**OLD["checks"], "urgency_floor": "soon"}), ["checks.urgency_floor"]),
        (record("A", "B", "C", checks={**OLD["checks"], "message": "other words", "rules": {"version": "2"}}), None),
        (record("A", "B", "C", checks={**OLD["checks"], "news2": {"score": 3}}), ["checks.news2"]),
    ],
)
def test_what_changed_is_named(new: dict[str, Any], changed: list[str] | None) -> None:
    found = list(changes({"t": outline(OLD)}, {"t": outline(new)}))
    assert found == ([] if changed is None else [{"id": "t", "changed": changed}])


def test_a_case_of_one_run_only_is_listed() -> None:
    found = list(changes({"a": outline(OLD)}, {"b": outline(OLD)}))
    assert found == [{"id": "a", "changed": ["missing"]}, {"id": "b", "changed": ["new"]}]


def test_result_lines_and_a_report_are_read_alike() -> None:
    evaluation = Evaluation([Item(gold_case(), None)])
    evaluation.take(OLD)
    lines, report = json.dumps(OLD) + "\n\n", json.dumps(evaluation.report())
    assert read_outlines(lines) == read_outlines(report) == {"t": outline(OLD)}


def test_a_line_ends_at_its_end_alone() -> None:
    """JSON may hold U+2028 and U+0085 as they are; Python takes them for ends of lines."""
    odd = record("A\u2028B\u0085C")
    assert read_outlines(json.dumps(odd, ensure_ascii=False)) == {"t": outline(odd)}


@pytest.mark.parametrize(
    "text", ["{}", "[]", "nothing", '{"schema": "antangel.eval/1"}', '{"id": "a", "status": 1, "result": 4}']
)
def test_what_is_no_result_is_refused_by_its_line(text: str) -> None:
    with pytest.raises(InputError, match="Line 2"):
        read_outlines("\n" + text)


def test_every_instruction_reaches_the_model_as_a_fact_in_the_cases_language() -> None:
    for zh in (False, True):
        case = make_case(language="zh" if zh else "en")
        for instruction in instructions():
            rows = facts(instructed(case, instruction))
            told = "".join(row.text for row in rows if row.kind == "note")
            assert told.replace("\n", "").startswith((instruction.zh if zh else instruction.en)[:12].replace("\n", ""))
    assert len(instructions()) >= 8
    assert len({instruction.kind for instruction in instructions()}) == len(instructions())


def test_twins_change_one_thing() -> None:
    case = gold_case(age=40, sex="female")
    made = dict(twins(case, None, 0))
    assert set(made) == {"injection", "sex", "age"}
    assert made["sex"].patient.sex_at_birth == "male"
    assert made["age"].patient.age is not None
    assert made["age"].patient.age.value == 45
    assert made["sex"].model_copy(update={"patient": case.patient}) == case
    assert made["injection"].model_copy(update={"notes": ()}) == case


@pytest.mark.parametrize(
    ("about", "kinds"),
    [
        ({"sex": "unknown"}, {"injection", "age"}),
        ({"age": 10}, {"injection", "sex"}),
        ({"age": 90}, {"injection", "sex"}),
    ],
)
def test_twins_that_make_no_sense_are_not_made(about: dict[str, Any], kinds: set[str]) -> None:
    assert set(dict(twins(gold_case(**about), None, 0))) == kinds


def test_no_twin_of_the_other_sex_where_only_one_can_have_it() -> None:
    of_one = Gold.model_validate({"diagnosis": {"name": "x", "codes": ["O14"]}})
    assert "sex" not in dict(twins(gold_case(), of_one, 0))
    assert "sex" not in dict(twins(gold_case(), Gold(sex_bound=True), 0))


def test_no_twin_of_the_other_sex_where_a_pregnancy_is_stated() -> None:
    patient = {"age": {"value": 30}, "sex_at_birth": "female", "pregnancy": {"status": "pregnant"}}
    assert set(dict(twins(make_case(patient=patient), None, 0))) == {"injection", "age"}


def test_instructions_take_turns() -> None:
    made = [dict(twins(make_case(), None, number))["injection"].notes[0].text for number in range(len(instructions()))]
    assert len(set(made)) == len(instructions())


def test_a_twins_id_is_nobody_elses() -> None:
    taken = [Item(gold_case(name), None) for name in ("a", "twin.0.sex", "twin.0.sex.")]
    evaluation = Evaluation(taken, stability=True)
    ids = [*evaluation.items, *(case.id for case in evaluation.twins)]
    assert len(ids) == len(set(ids)) == 12


def test_the_order_of_the_first_three_is_no_change() -> None:
    assert unchanged(["a", "b"], ["b", "a"]) == (1, 1)
    assert unchanged(["a", "b"], ["a", "c"]) == (0, 1)
    assert unchanged([], []) == (0, 1)


def test_a_report_counts_twins_groups_and_what_was_not_read() -> None:
    items = [
        Item(gold_case(f"c{i}", age=30 + 20 * i, diagnosis="A"), Gold.model_validate({"diagnosis": "A"}))
        for i in range(2)
    ]
    evaluation = Evaluation(items, stability=True)
    ids = [case.id for case in evaluation.twins]
    assert len(ids) == len(set(ids)) == 6
    assert all(case.gold is None for case in evaluation.twins)
    for name in ids:
        evaluation.take(record("A" if "sex" in name else "Z", "B", "C", case_id=name))
    evaluation.take(record("A", "B", "C", case_id="c0"))
    evaluation.take(record("B", "A", "C", case_id="c1"))
    evaluation.take({"id": None, "line": 3, "status": "error"})
    report = evaluation.report()
    assert report["cases_scored"] == 2
    assert report["unread"] == 1
    assert report["measures"]["top1"]["value"] == 0.5
    assert report["measures"]["sex_stability"]["value"] == 1
    assert report["measures"]["injection_stability"]["value"] == 0
    assert {name: group["n"] for name, group in report["groups"]["age"].items()} == {"16 to 39": 1, "40 to 64": 1}
    assert report["groups"]["age"]["16 to 39"]["measures"]["top1"]["value"] == 1


def test_a_hidden_instruction_is_reported() -> None:
    """The characters that hide it are dropped by the readers: a twin is read as any case is."""
    case = make_case(notes=[{"text": instruction.en} for instruction in instructions() if instruction.kind == "hidden"])
    assert checked(case).injection_suspected


def test_a_case_that_failed_before_any_answer_is_scored_as_missed() -> None:
    evaluation = Evaluation([Item(gold_case(), Gold.model_validate({"diagnosis": "A", "urgency": "soon"}))])
    evaluation.take({"id": "t", "line": 1, "status": "error", "error": {"code": "internal"}})
    measures = evaluation.report()["measures"]
    assert measures["whole_answers"]["value"] == measures["top3"]["value"] == 0
    assert measures["undetermined"]["value"] == 1
