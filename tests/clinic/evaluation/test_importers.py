"""Importers on small invented files of the published form."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.evaluation.gold import read_gold
from antangel_cli.clinic.evaluation.importers import IMPORTERS, LOST
from antangel_cli.clinic.readers import read_case

CONDITIONS = {
    "Bronchite": {
        "condition_name": "Bronchite", "cond-name-fr": "Bronchite", "cond-name-eng": "Bronchitis", "icd10-id": "j20",
        "symptoms": {"E_1": {}}, "antecedents": {"E_2": {}}, "severity": 4,
    },
    "Pneumonie": {
        "condition_name": "Pneumonie", "cond-name-fr": "Pneumonie", "cond-name-eng": "Pneumonia", "icd10-id": "j18",
        "symptoms": {"E_1": {}}, "antecedents": {}, "severity": 2,
    },
}  # fmt: skip
EVIDENCES = {
    "E_1": {"name": "E_1", "question_en": "Do you have a cough?", "is_antecedent": False, "data_type": "B", "default_value": 0, "value_meaning": {}},
    "E_2": {"name": "E_2", "question_en": "Do you smoke?", "is_antecedent": True, "data_type": "B", "default_value": 0, "value_meaning": {}},
    "E_3": {"name": "E_3", "question_en": "Where is the pain?", "is_antecedent": False, "data_type": "M", "default_value": "V_0", "value_meaning": {"V_0": {"en": "nowhere", "fr": "nulle part"}, "V_1": {"en": "chest", "fr": "poitrine"}}},
    "E_4": {"name": "E_4", "question_en": "How strong is it?", "is_antecedent": False, "data_type": "C", "default_value": 0, "value_meaning": {}},
}  # fmt: skip
PATIENT = (
    "AGE,DIFFERENTIAL_DIAGNOSIS,SEX,PATHOLOGY,EVIDENCES,INITIAL_EVIDENCE\n"
    "31,\"[['Pneumonie', 0.2], ['Bronchite', 0.8]]\",F,Bronchite,\"['E_1', 'E_2', 'E_3_@_V_1', 'E_3_@_V_0', 'E_4_@_7']\",E_1\n"
)
HEALTHBENCH = json.dumps(
    {
        "prompt_id": "3b0a1c52-0000-4000-8000-000000000001",
        "prompt": [
            {"role": "user", "content": "My child has a fever."},
            {"role": "assistant", "content": "How old is the child?"},
            {"role": "user", "content": "Four months."},
        ],
        "rubrics": [{"criterion": "Advises to be seen today", "points": 7, "tags": ["level:example"]}],
        "example_tags": ["theme:emergency_referrals"],
    }
)
MEDQA = json.dumps(
    {
        "question": "A 30-year-old man has a painful big toe at night. What is the diagnosis?",
        "options": {"A": "Gout", "B": "Sprain", "C": "Cellulitis", "D": "Fracture"},
        "answer": "Gout", "answer_idx": "A", "meta_info": "step1",
    }
)  # fmt: skip
MEDQA_ZH = json.dumps(
    {"question": "男性，30岁，夜间拇趾疼痛，诊断是什么？", "options": {"A": "痛风", "B": "扭伤"}, "answer": "痛风", "answer_idx": "A"},
    ensure_ascii=False,
)  # fmt: skip
MEDMCQA = {
    "id": "5d8a3c10-0000-4000-8000-000000000002", "question": "A wheal after a bee sting is", "opa": "Urticaria", "opb": "Scabies",
    "opc": "Tinea", "opd": "Impetigo", "cop": 1, "choice_type": "single", "subject_name": "Skin", "topic_name": None, "exp": None,
}  # fmt: skip
SAMPLES = {
    "ddxplus": PATIENT,
    "healthbench": HEALTHBENCH,
    "medmcqa": json.dumps(MEDMCQA),
    "medqa": f"{MEDQA}\n\n{MEDQA_ZH}",
}


def beside(name: str) -> str:
    return json.dumps({"release_conditions.json": CONDITIONS, "release_evidences.json": EVIDENCES}[name])


def imported(data_set: str, text: str, near: Callable[[str], str] = beside) -> list[dict[str, Any] | None]:
    return list(IMPORTERS[data_set](text.splitlines(keepends=True), near))


@pytest.mark.parametrize("data_set", IMPORTERS)
def test_what_is_imported_is_read_as_a_case_with_its_gold(data_set: str) -> None:
    for content in imported(data_set, SAMPLES[data_set]):
        case = read_case(json.dumps(content).encode(), None, "case")
        assert read_gold(case) is not None
    assert set(LOST) == set(IMPORTERS)


def test_ddxplus_states_evidence_in_words_and_keeps_the_differential() -> None:
    [case] = imported("ddxplus", PATIENT)
    assert case is not None
    assert case["id"] == "ddxplus-1"
    assert case["patient"] == {"age": {"value": 31.0}, "sex_at_birth": "female"}
    assert [finding["text"] for finding in case["findings"]] == [
        "Do you have a cough? Yes.",
        "Where is the pain? chest",
        "How strong is it? 7",
    ]
    assert case["history"] == [{"text": "Do you smoke? Yes."}]
    assert case["gold"]["diagnosis"] == {"name": "Bronchitis", "synonyms": ["Bronchite"], "codes": ["J20"]}
    assert [each["name"] for each in case["gold"]["differential"]] == ["Bronchitis", "Pneumonia"]


def test_healthbench_tells_what_the_user_wrote_and_keeps_the_rubrics() -> None:
    [case] = imported("healthbench", HEALTHBENCH)
    assert case is not None
    assert case["narrative"] == "My child has a fever.\n\nFour months."
    assert case["id"].startswith("3b0a1c52")
    assert case["gold"]["rubrics"][0]["points"] == 7


def test_medqa_asks_for_one_of_its_options_in_its_language() -> None:
    english, chinese = imported("medqa", SAMPLES["medqa"])
    assert english is not None
    assert chinese is not None
    assert english["question"] == "Which one: Gout; Sprain; Cellulitis; Fracture"
    assert english["gold"] == {"diagnosis": "Gout"}
    assert (chinese["language"], chinese["question"]) == ("zh", "请选择其一: 痛风; 扭伤")


@pytest.mark.parametrize(("right", "name"), [(1, "Urticaria"), (4, "Impetigo")])
def test_medmcqa_counts_its_options_from_one(right: int, name: str) -> None:
    [case] = imported("medmcqa", json.dumps({**MEDMCQA, "cop": right}))
    assert case is not None
    assert case["gold"] == {"diagnosis": name}


def test_medmcqa_leaves_out_questions_with_several_answers() -> None:
    assert imported("medmcqa", json.dumps({**MEDMCQA, "choice_type": "multi"})) == [None]


@pytest.mark.parametrize(
    ("data_set", "text"),
    [
        ("medmcqa", json.dumps({**MEDMCQA, "cop": 0})),
        ("medmcqa", json.dumps({**MEDMCQA, "cop": True})),
        ("medmcqa", json.dumps({**MEDMCQA, "opc": None})),
        ("medqa", json.dumps({"question": "Zebra?", "options": {"A": "x"}, "answer": "y"})),
        ("medqa", "Zebra"),
        ("medqa", "[" * 100_000),
        ("healthbench", json.dumps({"prompt": ["Zebra"], "rubrics": []})),
        ("ddxplus", PATIENT.replace("Bronchite,", "Zebra,")),
        ("ddxplus", PATIENT.replace("'E_1', ", "'Zebra', ")),
        ("ddxplus", PATIENT.replace("31,", "Zebra,")),
        ("ddxplus", PATIENT.replace("\"['E_1'", '"' + "[" * 3000 + "'E_1'")),
    ],
)  # fmt: skip
def test_another_form_is_refused_by_its_line_and_never_repeated(data_set: str, text: str) -> None:
    with pytest.raises(InputError, match=r"Line [12] has not the form") as caught:
        imported(data_set, text)
    assert "Zebra" not in str(caught.value)


def test_a_list_without_end_is_not_parsed() -> None:
    long = PATIENT.replace("['E_1',", "[" + "'E_1'," * 20_000)
    with pytest.raises(InputError, match="Line 2"):
        imported("ddxplus", long)


def test_a_broken_table_beside_is_named() -> None:
    with pytest.raises(InputError, match="release_conditions"):
        imported("ddxplus", PATIENT, lambda name: "[]")
