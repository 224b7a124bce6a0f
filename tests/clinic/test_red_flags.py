"""Red flags: each rule fires on what it is for and stays silent when that is denied, past, or someone else's."""

from __future__ import annotations

import time
from typing import Any

import pytest

from antangel_cli.clinic.checks import red_flags_in_text
from antangel_cli.clinic.checks.red_flags import rules
from antangel_cli.clinic.rules import rules_provenance
from tests.clinic.cases import checked, make_case, prose

WOMAN: dict[str, Any] = {"age": {"value": 28}, "sex_at_birth": "female"}
PREGNANT: dict[str, Any] = {**WOMAN, "pregnancy": {"status": "pregnant", "weeks": 34}}
MAN: dict[str, Any] = {"age": {"value": 70}, "sex_at_birth": "male"}
INFANT: dict[str, Any] = {"age": {"value": 6, "unit": "wk"}}
TODDLER: dict[str, Any] = {"age": {"value": 2}}

POSITIVE: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "acute_coronary",
        MAN,
        "Crushing central chest pain and profuse sweating.",
        "胸骨后压榨样疼痛，伴大汗。",
    ),
    ("aortic_dissection", MAN, "Sudden tearing chest pain.", "突发撕裂样胸痛。"),
    ("pulmonary_embolism", MAN, "Shortness of breath. Swelling of one leg.", "呼吸困难。单侧下肢肿胀。"),
    ("thunderclap_headache", MAN, "Thunderclap headache an hour ago.", "1小时前突发剧烈头痛。"),
    ("meningitis", MAN, "Fever, headache and neck stiffness.", "发热、头痛、颈项强直。"),
    ("raised_pressure", MAN, "Headache with projectile vomiting.", "头痛伴喷射性呕吐。"),
    ("giant_cell_arteritis", MAN, "Headache and jaw claudication.", "头痛，咀嚼时下颌痛。"),
    ("sepsis", MAN, "Fever and confusion.", "发热伴意识模糊。"),
    ("neutropenic_fever", MAN, "Fever ten days after chemotherapy.", "化疗后10天发热。"),
    ("stroke", MAN, "Facial droop and slurred speech.", "口角歪斜，口齿不清。"),
    ("seizure_ongoing", MAN, "Seizure still ongoing.", "抽搐不止。"),
    ("peritonitis", MAN, "Abdominal pain with guarding and rebound tenderness.", "腹痛，腹肌紧张，反跳痛。"),
    ("aneurysm", MAN, "Back pain and collapse.", "腰痛后晕厥。"),
    ("gut_bleeding", MAN, "Black tarry stools since yesterday.", "昨起柏油样便。"),
    ("testicular_torsion", MAN, "Sudden testicular pain.", "突发睾丸疼痛。"),
    ("ectopic_pregnancy", WOMAN, "Lower abdominal pain and a missed period.", "停经6周，下腹痛。"),
    ("preeclampsia", PREGNANT, "Severe headache, very high blood pressure.", "头痛，血压升高。"),
    ("pregnancy_bleeding", PREGNANT, "Vaginal bleeding.", "阴道流血。"),
    ("infant_fever", INFANT, "Fever since this morning.", "今晨起发热。"),
    ("sick_child", TODDLER, "Fever, lethargy.", "发热，精神萎靡。"),
    ("upper_airway", TODDLER, "Stridor at rest.", "安静时喉鸣。"),
    ("severe_breathing", MAN, "Cannot speak in sentences, blue lips.", "不能成句，口唇青紫。"),
    ("anaphylaxis", MAN, "Hives and wheeze after a sting.", "蜂蜇后风团，喘息。"),
    ("suicidality", MAN, "He says he wants to die.", "患者诉想死。"),
    ("cauda_equina", MAN, "Back pain with urinary retention.", "腰痛伴尿潴留。"),
    ("ascending_weakness", MAN, "Ascending leg weakness.", "上行性肢体无力。"),
    ("acute_eye", MAN, "Sudden visual loss in the right eye.", "右眼突然视力丧失。"),
    ("ketoacidosis", MAN, "Vomiting, fruity breath.", "呕吐，呼气烂苹果味。"),
]


def fired(text: str, patient: dict[str, Any] | None = None, language: str = "en", **about: Any) -> list[str]:
    case = make_case(language=language, patient=patient or {}, chief_complaint=None, narrative=text, **about)
    return [hit.rule.id for hit in checked(case).red_flags]


@pytest.mark.parametrize(
    ("rule", "patient", "english", "chinese"),
    POSITIVE,
    ids=lambda v: v if isinstance(v, str) and v.islower() and " " not in v else "",
)
def test_fires(rule: str, patient: dict[str, Any], english: str, chinese: str) -> None:
    assert rule in fired(english, patient)
    assert rule in fired(chinese, patient, "zh")


@pytest.mark.parametrize(
    ("rule", "patient", "english", "chinese"),
    POSITIVE,
    ids=lambda v: v if isinstance(v, str) and v.islower() and " " not in v else "",
)
def test_silent_for_the_family(rule: str, patient: dict[str, Any], english: str, chinese: str) -> None:
    assert rule not in fired("Cough.", patient, family=[{"text": english}, {"text": chinese}])


@pytest.mark.parametrize(
    ("rule", "patient", "english", "chinese"),
    POSITIVE,
    ids=lambda v: v if isinstance(v, str) and v.islower() and " " not in v else "",
)
def test_silent_when_absent(rule: str, patient: dict[str, Any], english: str, chinese: str) -> None:
    absent = [{"text": text, "status": status} for text in (english, chinese) for status in ("absent", "unknown")]
    assert rule not in fired("Cough.", patient, findings=absent)


@pytest.mark.parametrize(
    ("lab", "rule"),
    [
        ({"name": "potassium", "value": 6.8, "unit": "mmol/L"}, "potassium_danger"),
        ({"name": "potassium", "value": 2.2, "unit": "mmol/L"}, "potassium_danger"),
        ({"name": "glucose", "value": 45, "unit": "mg/dL"}, "glucose_low"),
    ],
)
def test_measured_rules(lab: dict[str, Any], rule: str) -> None:
    assert fired("Tired.", MAN, labs=[lab]) == [rule]


def test_measured_rules_stay_silent_within_bounds() -> None:
    labs = [
        {"name": "potassium", "value": 4.4, "unit": "mmol/L"},
        {"name": "glucose", "value": 5, "unit": "mmol/L"},
    ]
    assert fired("Tired.", MAN, labs=labs) == []


def test_a_measured_value_can_stand_for_words() -> None:
    vitals = [
        {"name": "temperature", "value": 39.5, "unit": "°C"},
        {"name": "systolic_bp", "value": 84, "unit": "mmHg"},
    ]
    case = make_case(patient=MAN, chief_complaint="cough", vitals=vitals)
    (hit,) = checked(case).red_flags
    assert (hit.rule.id, hit.fact_ids) == ("sepsis", ("F3", "F4"))


@pytest.mark.parametrize(
    "text",
    [
        "No hematemesis.",
        "Denies melena.",
        "Patient denies fever, chills, melena.",
        "No fever, vomiting or melena.",
        "There was no evidence of melena.",
        "Without melena.",
        "He has never had melena.",
        "Negative for melena.",
        "Melena: no.",
        "Melena (-).",
        "Melena was denied.",
        "Melena is absent.",
        "History of melena.",
        "Melena 5 years ago.",
        "Previous melena, now well.",
        "Family history of melena.",
        "His father had melena.",
        "Return if melena occurs.",
        "Does not have melena.",
        "Doesn't have melena.",
        "无黑便。",
        "否认黑便。",
        "否认发热，腹痛，黑便。",
        "无呕血、黑便。",
        "未见黑便。",
        "没有黑便。",
        "黑便阴性。",
        "黑便（-）。",
        "既往黑便，现已愈。",
        "5年前黑便。",
        "父亲曾有黑便。",
        "家族史：黑便。",
        "如出现黑便立即就诊。",
    ],
)
def test_not_stated(text: str) -> None:
    language = "en" if text.isascii() else "zh"
    assert fired(text, MAN, language) == []


@pytest.mark.parametrize(
    "text",
    [
        "Melena.",
        "No fever, but melena since Monday.",
        "No fever, melena since Monday.",
        "Denies fever but has melena.",
        "No improvement in melena.",
        "Melena not improving.",
        "Reports melena; no vomiting.",
        "3-day history of melena.",
        "Mother reports melena.",
        "No known allergies. Melena today.",
        "Previously well man with melena.",
        "Woman with a history of hypertension presents with melena.",
        "His wife has noticed melena.",
        "Mother has noticed melena.",
        "Her mother died last year and now she has melena.",
        "Not slept because of melena.",
        "Mother is worried about melena.",
        "Presented to the clinic for melena.",
        "既往高血压因黑便就诊。",
        "母亲因患儿黑便来诊。",
        "若干天前起黑便。",
        "无法进食，黑便。",
        "黑便3天。",
        "无发热，黑便3天。",
        "否认发热，但有黑便。",
        "黑便3天，无缓解。",
        "无明显诱因出现黑便。",
        "母亲诉患儿黑便。",
        "无力，黑便。",
    ],
)
def test_stated(text: str) -> None:
    language = "en" if text.isascii() else "zh"
    assert fired(text, MAN, language) == ["gut_bleeding"]


def test_history_counts_only_where_a_rule_says_so() -> None:
    assert fired("Shortness of breath.", MAN, history=[{"text": "recent surgery"}]) == ["pulmonary_embolism"]
    assert fired("Cough.", MAN, history=[{"text": "thunderclap headache"}]) == []


def test_rules_for_an_age_need_an_age() -> None:
    assert "infant_fever" not in fired("Fever.", {})
    assert "infant_fever" not in fired("Fever.", {"age": {"value": 4, "unit": "mo"}})


def test_rules_for_a_sex() -> None:
    text = "Lower abdominal pain and a positive pregnancy test."
    assert "ectopic_pregnancy" not in fired(text, {"age": {"value": 28}, "sex_at_birth": "male"})
    assert "ectopic_pregnancy" in fired(text, {"age": {"value": 28}})


def test_full_width_and_case_are_folded() -> None:
    assert "acute_coronary" in fired("ＣＨＥＳＴ　ＰＡＩＮ with SWEATING", MAN)


def test_floor_is_the_highest() -> None:
    assert checked(prose("Thunderclap headache. Headache with papilledema.")).urgency_floor == "emergency"
    assert checked(prose("Cough for a week.")).urgency_floor is None


def test_text_alone() -> None:
    assert [hit.rule.id for hit in red_flags_in_text("What to do about thunderclap headache?")] == [
        "thunderclap_headache"
    ]
    assert red_flags_in_text("No melena.") == ()


def test_rules_file() -> None:
    assert len(rules()) >= 25
    assert len({rule.id for rule in rules()}) == len(rules())
    assert {rule.family for rule in rules()} >= {
        "chest_pain", "headache", "sepsis", "stroke", "abdomen", "pregnancy", "child_fever", "airway", "anaphylaxis",
        "mental_health", "back", "eye",
    }  # fmt: skip
    assert all(set(rule.concern) == {"en", "zh"} for rule in rules())
    assert rules_provenance()["source"] is None


HOSTILE = {
    "spaces": "pulse" + " " * 300_000,
    "denied": "no melena, " * 25_000,
    "markup": "<case " * 50_000,
    "digits": "9" * 300_000,
    "one letter": "a" * 300_000,
    "sentences": "melena no. " * 9_000,
    "open patterns": "crushing " * 30_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_long_hostile_text_is_checked_in_good_time(name: str) -> None:
    started = time.process_time()
    checks = checked(prose(HOSTILE[name]))
    assert checks.red_flags == ()
    assert time.process_time() - started < 30
