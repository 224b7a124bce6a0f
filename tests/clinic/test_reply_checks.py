"""Post-checks of replies in free text: chat and ask are not a way round what diagnose checks."""

from __future__ import annotations

from typing import Any

import pytest

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.reply_checks import lines_beneath, reply_checks
from antangel_cli.clinic.spoken import Spoken


def case(**parts: Any) -> Case:
    return Case.model_validate({"schema": "antangel.case/1", "id": "c", "patient": {"sex_at_birth": "male"}, **parts})


PENICILLIN = case(allergies=({"substance": "penicillin"},))
ADULT = case(patient={"age": {"value": 50.0}, "sex_at_birth": "male"}, no_known_allergies=True)


def beneath(reply: str, *said: str, of: Case | None = None, question: str = "", doses: bool = False) -> list[str]:
    spoken = Spoken.of(of, said, doses)
    return lines_beneath(reply_checks(question, reply, spoken), spoken.case.chinese)


def test_a_drug_of_the_reply_is_held_against_the_case() -> None:
    assert beneath("Give amoxicillin.", of=PENICILLIN) == [
        "Check: possible conflict: amoxicillin is one of the penicillins; allergy to penicillin"
    ]
    assert beneath("Give aspirin.", of=PENICILLIN) == []


def test_an_allergy_that_was_only_said_counts() -> None:
    said = "He is allergic to penicillin."
    assert beneath("Give amoxicillin.", said, of=case()) == [
        "Check: possible conflict: amoxicillin is one of the penicillins; allergy to penicillins"
    ]


def test_yes_to_a_drug_that_only_the_question_names() -> None:
    asked = "May I give amoxicillin?"
    assert "amoxicillin is one of the penicillins" in "".join(beneath("Yes.", asked, of=PENICILLIN, question=asked))


def test_a_drug_that_the_question_lists_is_not_proposed() -> None:
    listed = "He takes aspirin and is allergic to penicillin."
    assert beneath("Rest.", listed, of=case(), question=listed) == []


def test_unknown_is_said_of_all_drugs_at_once() -> None:
    assert beneath("Aspirin or heparin.", "What thins the blood?") == [
        "Check: aspirin, heparin: allergies not recorded",
        "Check: aspirin, heparin: check pregnancy",
    ]
    assert beneath("用阿司匹林。", "怎么办？")[0].startswith("核查: 阿司匹林")


CHEST = "Crushing chest pain for one hour with sweating."


def test_what_must_not_be_missed_is_named_by_a_reply_or_said() -> None:
    spoken = Spoken.of(ADULT, [CHEST])
    missing = reply_checks(CHEST, "Rest.", spoken)["answer_remarks"]
    assert [remark["check"] for remark in missing] == ["cant_miss_absent"] * len(missing) != []
    named = "Acute coronary syndrome, aortic dissection or pulmonary embolism."
    assert reply_checks(CHEST, named, spoken)["answer_remarks"] == []
    assert reply_checks(CHEST, "Rest.", spoken, earlier=[named])["answer_remarks"] == []


@pytest.mark.parametrize(
    ("of", "doses", "shown", "why"),
    [
        (ADULT, False, "Give aspirin [dose: see formulary].", None),
        (ADULT, True, "Give aspirin 300 mg [unchecked dose].", "a dose that nobody checked is shown"),
        (None, True, "Give aspirin [dose: see formulary].", "doses are not shown: the age is not known"),
        (
            case(patient={"age": {"value": 9.0}, "sex_at_birth": "male"}),
            True,
            "Give aspirin [dose: see formulary].",
            "doses are not shown under 16 years",
        ),
    ],
)
def test_doses_are_shown_only_where_diagnose_would(of: Case | None, doses: bool, shown: str, why: str | None) -> None:
    reply = "Give aspirin 300 mg."
    assert Spoken.of(of, [], doses).shown(reply) == shown
    lines = [line for line in beneath(reply, of=of, doses=doses) if "dose" in line]
    assert lines == ([f"Check: {why}"] if why else [])


def test_a_withheld_dose_is_in_the_record() -> None:
    remarks = reply_checks("", "Give 300 mg.", Spoken.of(ADULT, []))["answer_remarks"]
    assert [remark["check"] for remark in remarks] == ["dose_withheld"]


def test_what_was_said_of_the_patient_is_known_to_the_checks() -> None:
    spoken = Spoken.of(
        None, ["A 67-year-old man with a cough.", "RR 26, SpO2 90%, on air, BP 100/60, HR 115, temp 38.5, alert"]
    )
    assert (spoken.case.patient.age.value, spoken.case.patient.sex_at_birth) == (67, "male")
    assert spoken.checks.to_json()["news2"]["score"] >= 7
    child = Spoken.of(None, ["A 3-year-old boy with a cough."])
    assert child.doses_refused == "not_asked"
    assert Spoken.of(None, ["A 3-year-old boy with a cough."], doses=True).doses_refused is not None
