"""Drugs by name, allergies by class, pregnancy: every class and ingredient is found, and the right conflicts are."""

from __future__ import annotations

import time
from typing import Any

import pytest

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.checks.drugs.conflicts import answer_conflicts, medication_conflicts
from antangel_cli.clinic.checks.drugs.names import classes, drug, drugs_in, ingredients, names, resolve_allergen
from antangel_cli.clinic.codes import is_listed
from antangel_cli.clinic.facts import facts
from antangel_cli.clinic.rules import load_rules
from tests.clinic.cases import make_case

MAN: dict[str, Any] = {"age": {"value": 50}, "sex_at_birth": "male"}
WOMAN: dict[str, Any] = {"age": {"value": 30}, "sex_at_birth": "female"}


def ids(text: str) -> list[str]:
    return [mention.drug.id for mention in drugs_in(text)]


def conflicts(case: Case, action: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Basis and drug of the conflicts of one proposed step, with allergies and with pregnancy."""
    found = answer_conflicts({"next_steps": [{"action": action}]}, case, facts(case))
    return tuple([(c["basis"], c["drug"]) for c in kind] for kind in found)  # type: ignore[return-value]


def allergic(*substances: str, **about: Any) -> Case:
    return make_case(patient=MAN, allergies=[{"substance": s} for s in substances], **about)


def test_the_tables_are_as_large_as_promised_and_hang_together() -> None:
    assert len(ingredients()) >= 200
    spanned = {c for row in ingredients().values() for c in row.get("classes", ())}
    assert len(spanned) >= 20
    assert spanned <= classes().keys()
    assert all(
        part in ingredients()
        for row in load_rules("drugs/combinations")["combinations"].values()
        for part in row["parts"]
    )
    for row in classes().values():
        assert {other["to"] for other in row.get("cross", ())} <= classes().keys()
    for rule in load_rules("drugs/pregnancy")["rule"]:
        assert set(rule.get("drugs", ())) | set(rule.get("except", ())) <= ingredients().keys()
        assert set(rule.get("classes", ())) <= classes().keys()


@pytest.mark.parametrize("inn", ingredients())
def test_every_name_of_an_ingredient_means_it(inn: str) -> None:
    row = ingredients()[inn]
    assert row.get("zh")
    for name in (inn, *names(row)):
        assert inn in ids(f"Give {name} now."), name


def test_no_name_means_two_drugs() -> None:
    meant: dict[str, set[str]] = {}
    for inn, row in ingredients().items():
        for name in (inn, *names(row)):
            meant.setdefault(name.casefold(), set()).add(inn)
    assert {name: found for name, found in meant.items() if len(found) > 1} == {}


@pytest.mark.parametrize("class_id", sorted({c for row in ingredients().values() for c in row.get("classes", ())}))
def test_an_allergy_to_one_of_a_class_meets_the_others(class_id: str) -> None:
    members = [inn for inn, row in ingredients().items() if class_id in row.get("classes", ())]
    known, proposed = members[0], members[-1]
    allergy, _ = conflicts(allergic(known), f"Start {proposed}.")
    assert [basis for basis, _ in allergy][:1] == ["same" if known == proposed else "class"]
    in_chinese = drug(proposed).zh
    assert conflicts(allergic(drug(known).zh), f"给予{in_chinese}治疗")[0]


@pytest.mark.parametrize(
    ("substance", "action", "expected"),
    [
        ("penicillin", "Give amoxicillin.", [("class", "amoxicillin")]),
        ("青霉素", "给予阿莫西林克拉维酸", [("class", "amoxicillin")]),
        ("Penicillin allergy", "Give co-amoxiclav.", [("class", "amoxicillin")]),
        ("aspirin", "Ibuprofen for the pain.", [("class", "ibuprofen")]),
        ("peanut", "Give amoxicillin.", []),
        ("amoxicillin", "Give doxycycline.", []),
        ("paracetamol", "Acetaminophen for fever.", [("same", "paracetamol")]),
        ("penicillin", "Obtain an ECG.", []),
    ],
)
def test_known_conflicts(substance: str, action: str, expected: list[tuple[str, str]]) -> None:
    assert conflicts(allergic(substance), action)[0] == expected


def test_a_cross_reaction_is_said_to_be_one() -> None:
    assert [basis for basis, _ in conflicts(allergic("penicillin"), "Give ceftriaxone.")[0]] == ["cross"]


def test_a_drug_to_avoid_is_listed_as_avoided() -> None:
    case = allergic("penicillin")
    found, _ = answer_conflicts({"why": "Avoid amoxicillin."}, case, facts(case))
    assert [(c["basis"], c["context"]) for c in found] == [("class", "avoided")]


def test_allergies_not_asked_are_said_with_every_drug() -> None:
    asked = make_case(patient=MAN, no_known_allergies=True)
    assert conflicts(make_case(patient=MAN), "Give amoxicillin and ibuprofen.")[0] == [
        ("not_recorded", "amoxicillin"),
        ("not_recorded", "ibuprofen"),
    ]
    assert conflicts(asked, "Give amoxicillin.")[0] == []


def test_an_allergy_in_the_text_counts() -> None:
    case = make_case(patient=MAN, chief_complaint=None, narrative="Cough. Allergic to penicillin.")
    assert [basis for basis, _ in conflicts(case, "Give amoxicillin.")[0]] == ["class"]


def pregnant(weeks: float | None = None) -> Case:
    return make_case(patient={**WOMAN, "pregnancy": {"status": "pregnant", "weeks": weeks}}, no_known_allergies=True)


@pytest.mark.parametrize(
    "name", ["warfarin", "isotretinoin", "methotrexate", "valproic acid", "lisinopril", "doxycycline"]
)
def test_what_is_to_be_avoided_in_pregnancy(name: str) -> None:
    assert conflicts(pregnant(), f"Give {name}.")[1]
    assert conflicts(make_case(patient=MAN, no_known_allergies=True), f"Give {name}.")[1] == []


def test_pregnancy_unknown_asks_for_it_with_drugs_and_radiation() -> None:
    case = make_case(patient=WOMAN, no_known_allergies=True)
    found = conflicts(case, "CT of the chest, then amoxicillin.")[1]
    assert {basis for basis, _ in found} == {"unknown"}
    assert len(found) == 2
    older = make_case(patient={**WOMAN, "age": {"value": 60}}, no_known_allergies=True)
    assert conflicts(older, "CT of the chest, then amoxicillin.")[1] == []


def test_what_the_patient_takes_needs_no_model() -> None:
    taken = [{"text": "Amoxicillin 500 mg"}, {"text": "Ibuprofen", "status": "stopped"}]
    case = allergic("penicillin", "ibuprofen", medications=taken)
    found, _ = medication_conflicts(case, facts(case))
    assert [(c["drug"], c["place"]) for c in found] == [("amoxicillin", "medications[0]")]
    silent = make_case(patient=WOMAN, medications=taken)
    assert medication_conflicts(silent, facts(silent)) == ((), ())


@pytest.mark.parametrize("text", ["The duration was short.", "Aspirin Creek", "non-penicillin", "痛", "lasting relief"])
def test_ordinary_words_are_no_drugs(text: str) -> None:
    assert ids(text) == []


def test_unlike_substances_stay_what_they_are() -> None:
    assert resolve_allergen("peanut butter cups") == ()


def test_a_megabyte_is_read_once() -> None:
    text = "amoxicillin 阿莫西林 pencil " * 30_000
    started = time.process_time()
    assert len(drugs_in(text)) == 60_000
    assert time.process_time() - started < 20


@pytest.mark.parametrize(
    ("code", "listed"),
    [("I21.9", True), ("I21", True), ("K35.80", True), ("U07.1", True), ("I21.99", False), ("Q99.99", False)],
)
def test_codes_are_those_of_icd_10_cm(code: str, listed: bool) -> None:
    assert is_listed(code) is listed
