"""What is corrected in an answer, and what is remarked about it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.checks import facts_to_use
from antangel_cli.clinic.dose import WITHHELD, withhold_doses
from antangel_cli.clinic.post_checks import Reviewed, normalized_name, review, unknown_facts
from antangel_cli.clinic.result import Differential
from tests.clinic.cases import checked, make_case
from tests.clinic.scripted import answer, diagnosis

CASE = make_case(
    patient={"age": {"value": 40}},
    findings=[{"text": "fever", "status": "absent"}, {"text": "rash"}],
)
"""F1 age, F2 cough, F3 no fever (absent), F4 rash."""

OTHERS = (diagnosis("Second disease"), diagnosis("Third disease"), diagnosis("Fourth disease"))


def reviewed(content: dict[str, Any], case: Case = CASE) -> Reviewed:
    return review(
        Differential.model_validate_json(json.dumps(content)), facts_to_use(case), checked(case), case.chinese
    )


def remarks(result: Reviewed) -> list[str]:
    return [remark["check"] for remark in result.remarks]


def test_a_sound_answer_is_left_alone() -> None:
    result = reviewed(answer())
    assert result.answer == Differential.model_validate_json(json.dumps(answer()))
    assert result.remarks == ()
    assert result.degraded == ()


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Pulmonary embolism", "pulmonary  Embolism"),
        ("Pulmonary embolism (PE)", "Pulmonary-embolism"),
        ("肺栓塞", "肺栓塞（PE）"),
    ],
)
def test_duplicates_are_merged(a: str, b: str) -> None:
    first = diagnosis(a, supporting=[{"fact_id": "F2", "why": "x"}], likelihood="possible", missing=["m"])
    again = diagnosis(
        b, supporting=[{"fact_id": "F4", "why": "y"}], likelihood="likely", cant_miss=True, missing=["m", "n"]
    )
    result = reviewed(answer(first, again, *OTHERS))
    merged = result.answer.differential[0]
    assert [d.name for d in result.answer.differential] == [
        a,
        "Second disease",
        "Third disease",
        "Fourth disease",
    ]
    assert {e.fact_id for e in merged.supporting} == {"F2", "F4"}
    assert (merged.likelihood, merged.cant_miss, merged.missing) == ("likely", True, ("m", "n"))
    assert "merged" in remarks(result)


def test_same_code_is_the_same_diagnosis() -> None:
    result = reviewed(answer(diagnosis("PE", codes=["I26.99"]), diagnosis("Lung clot", codes=["I26.99"]), *OTHERS))
    assert [d.name for d in result.answer.differential][:2] == ["PE", "Second disease"]


def test_different_diagnoses_are_kept_apart() -> None:
    assert normalized_name("Type 1 diabetes") != normalized_name("Type 2 diabetes")


def test_fewer_than_three_after_merging_degrades() -> None:
    result = reviewed(answer(diagnosis("A"), diagnosis("a"), diagnosis("B")))
    assert result.degraded == ("fewer_than_three_diagnoses",)


def test_a_fact_that_is_cited_twice_stands_there_once_with_both_reasons() -> None:
    twice = [{"fact_id": "F4", "why": why} for why in ("x", "", "y", "x")]
    cited = diagnosis("A", supporting=[*twice, {"fact_id": "F2", "why": "z"}], contradicting=twice[:0])
    result = reviewed(answer(cited, diagnosis("a", supporting=twice[2:3]), *OTHERS))
    assert [(e.fact_id, e.why) for e in result.answer.differential[0].supporting] == [("F4", "x; y"), ("F2", "z")]
    assert remarks(result) == ["merged"]


def test_a_fact_cannot_stand_on_both_sides() -> None:
    both = diagnosis(
        "A",
        supporting=[{"fact_id": "F4", "why": "x"}],
        contradicting=[{"fact_id": "F4", "why": "y"}, {"fact_id": "F3", "why": "z"}],
    )
    result = reviewed(answer(both, *OTHERS))
    assert [e.fact_id for e in result.answer.differential[0].supporting] == ["F4"]
    assert [e.fact_id for e in result.answer.differential[0].contradicting] == ["F3"]
    assert result.remarks[0] == {
        "check": "both_sides", "name": "A", "fact_id": "F4", "message": "A: F4 was cited both for and against; kept as for",
    }  # fmt: skip


def test_the_same_fact_may_speak_for_one_and_against_another() -> None:
    result = reviewed(
        answer(
            diagnosis("A"),
            diagnosis("B", supporting=[], contradicting=[{"fact_id": "F2", "why": "x"}]),
            diagnosis("C"),
        )
    )
    assert result.remarks == ()


def test_absent_finding_in_support_is_remarked() -> None:
    result = reviewed(answer(diagnosis("A", supporting=[{"fact_id": "F3", "why": "x"}]), *OTHERS))
    assert [(r["check"], r["fact_id"]) for r in result.remarks] == [("absent_support", "F3")]


def test_absent_finding_against_is_fine() -> None:
    assert reviewed(answer(diagnosis("A", contradicting=[{"fact_id": "F3", "why": "x"}]), *OTHERS)).remarks == ()


def test_red_flag_on_an_absent_finding_is_remarked() -> None:
    flag = {"finding": "fever", "fact_ids": ["F3"], "concern": "sepsis"}
    assert remarks(reviewed(answer(red_flags=[flag]))) == ["absent_red_flag"]


@pytest.mark.parametrize(
    ("bands", "named"),
    [
        (("likely", "possible", "possible"), []),
        (("possible", "likely", "unlikely"), ["B"]),
        (("unlikely", "possible", "very_likely"), ["B", "C"]),
    ],
)
def test_rank_against_band(bands: tuple[str, ...], named: list[str]) -> None:
    listed = [diagnosis(name, likelihood=band) for name, band in zip("ABC", bands, strict=True)]
    result = reviewed(answer(*listed))
    assert [r["name"] for r in result.remarks if r["check"] == "rank_order"] == named
    assert [d.name for d in result.answer.differential] == list("ABC")


SUDDEN = make_case(chief_complaint="thunderclap headache", patient={"age": {"value": 40}})


def test_a_fired_rule_wants_its_diagnosis() -> None:
    result = reviewed(answer(urgency="emergency"), SUDDEN)
    assert [(r["check"], r["rule"]) for r in result.remarks] == [("cant_miss_absent", "thunderclap_headache")]


def test_a_fired_rule_is_content_when_listed() -> None:
    listed = answer(diagnosis("Subarachnoid haemorrhage"), *OTHERS, urgency="emergency")
    assert reviewed(listed, SUDDEN).remarks == ()


@pytest.mark.parametrize(
    ("urgency", "likelihood", "cant_miss", "after"),
    [
        ("routine", "possible", True, "soon"),
        ("self_care", "very_likely", True, "soon"),
        ("routine", "unlikely", True, "routine"),
        ("routine", "likely", False, "routine"),
        ("undetermined", "likely", True, "undetermined"),
        ("urgent", "likely", True, "urgent"),
    ],
)
def test_urgency_beside_a_cant_miss(urgency: str, likelihood: str, cant_miss: bool, after: str) -> None:
    listed = answer(
        diagnosis("A", likelihood=likelihood, cant_miss=cant_miss),
        diagnosis("B", likelihood="unlikely"),
        diagnosis("C", likelihood="unlikely"),
        urgency=urgency,
    )
    result = reviewed(listed)
    assert result.answer.urgency == after
    assert ("urgency_raised" in remarks(result)) == (urgency != after)


def test_codes_that_icd_10_cm_has_not_are_dropped_or_told_apart() -> None:
    listed = answer(diagnosis("A", codes=["I21.9", "I21.99", "heart attack"]), *OTHERS)
    result = reviewed(listed)
    assert result.answer.differential[0].codes == ("I21.9", "I21.99")
    assert result.dropped_codes == ({"diagnosis": "A", "code": "heart attack"},)
    assert result.unverified_codes == ({"diagnosis": "A", "code": "I21.99"},)


@pytest.mark.parametrize(
    "text",
    [
        "aspirin 300 mg", "give 0.5–1 mg/kg", "adrenaline 500 micrograms IM", "1,000 mg", "insulin 0.1 units/kg/h", "500ml saline",
        "two 5mg tablets", "take 2 tablets", "10-20 mL/kg", "阿司匹林300毫克", "每次2片", "0.1单位/公斤/小时", "３００ｍｇ", "5 mg", "2 g every 4 hours",
        "50 mcg/h", "1 to 2 puffs",
    ],
)  # fmt: skip
@pytest.mark.parametrize("chinese", [True, False])
def test_doses_are_withheld(text: str, chinese: bool) -> None:
    assert WITHHELD["zh" if chinese else "en"] in withhold_doses(text, chinese)
    assert not any(char.isdigit() for char in withhold_doses(text, chinese).replace("every 4 hours", ""))


@pytest.mark.parametrize(
    "text",
    [
        "glucose 28 mmol/L", "hemoglobin 80 g/L", "CRP 120 mg/L", "troponin 860 ng/L", "creatinine 1.5 mg/dL", "D-dimer 4.8 mg/L", "weight 70 kg",
        "temperature 38.5 °C", "in 2 hours", "CD4 200", "血糖28 mmol/L", "3 grandparents", "5 minutes", "T4 low", "血红蛋白98 g/升", "K 6 mmol / L",
    ],
)  # fmt: skip
def test_measured_values_are_no_doses(text: str) -> None:
    assert withhold_doses(text, False) == text


def test_an_answer_with_more_items_than_any_grammar_allows_is_none() -> None:
    """Found by fuzzing: 50,956 codes for one diagnosis took a hundred times their size in memory."""
    many = answer(diagnosis("A", codes=["A00.0"] * 65), *OTHERS)
    with pytest.raises(ValidationError, match="too_long"):
        Differential.model_validate_json(json.dumps(many))
    assert reviewed(answer(diagnosis("A", codes=["A00.0"] * 64), *OTHERS)).answer.differential


def test_doses_are_withheld_everywhere_in_an_answer() -> None:
    step = {"action": "aspirin 300 mg", "kind": "treatment", "timing": "now", "rationale": "5 mg"}
    content = answer(
        diagnosis("A", missing=["took 10 mg"]),
        *OTHERS,
        next_steps=[step],
        summary="takes 20 mg",
        urgency_reason="1 mg",
        confidence_reason="2 mg",
    )
    result = reviewed(content)
    assert " mg" not in json.dumps(result.answer.model_dump())
    assert {r["place"] for r in result.remarks if r["check"] == "dose_withheld"} == {
        "result.next_steps[0].action", "result.next_steps[0].rationale", "result.differential[0].missing[0]", "result.summary",
        "result.urgency_reason", "result.confidence_reason",
    }  # fmt: skip


def test_remarks_are_in_the_case_language() -> None:
    case = make_case(language="zh", chief_complaint="咳嗽", patient={"age": {"value": 40}})
    result = reviewed(answer(diagnosis("甲", likelihood="unlikely"), diagnosis("乙"), diagnosis("丙")), case)
    assert result.remarks[0]["message"] == "乙：排在可能性更低的诊断之后"


def test_unknown_facts() -> None:
    content = answer(
        diagnosis("A", contradicting=[{"fact_id": "F99", "why": "x"}]),
        red_flags=[{"finding": "x", "fact_ids": ["F0"], "concern": "y"}],
    )
    found = unknown_facts(Differential.model_validate_json(json.dumps(content)), facts_to_use(CASE))
    assert sorted(found) == ["F0", "F99"]
