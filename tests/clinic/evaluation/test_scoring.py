"""Every measure by hand-counted answers."""

from __future__ import annotations

from typing import Any

import pytest

from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.evaluation.bootstrap import RESAMPLES, figure, figures
from antangel_cli.clinic.evaluation.gold import Gold, read_gold
from antangel_cli.clinic.evaluation.groups import groups_of
from antangel_cli.clinic.evaluation.scoring import score
from tests.clinic.cases import make_case
from tests.clinic.evaluation.records import citing, gold_case, record
from tests.clinic.scripted import answer, diagnosis


def gold(**about: Any) -> Gold:
    return Gold.model_validate(about)


@pytest.mark.parametrize(
    ("names", "top1", "top3"),
    [
        (("Angina", "B", "C"), 1, 1),
        (("B", "C", "ANGINA (stable)"), 0, 1),
        (("B", "C", "D", "Angina"), 0, 0),
        (("心绞痛", "B", "C"), 1, 1),
    ],
)
def test_a_name_or_a_synonym_counts_by_rank(names: tuple[str, ...], top1: int, top3: int) -> None:
    scores = score(record(*names), gold(diagnosis={"name": "Angina", "synonyms": ["心绞痛"]}))
    assert scores["top1"] == (top1, 1)
    assert scores["top3"] == (top3, 1)


@pytest.mark.parametrize(("code", "found"), [("I20.0", 1), ("I20", 1), ("I21.9", 0)])
def test_codes_count_by_their_first_three_characters_and_apart(code: str, found: int) -> None:
    listed = [diagnosis("Something else", codes=[code]), diagnosis("B"), diagnosis("C")]
    scores = score({**record("x"), "result": answer(*listed)}, gold(diagnosis={"name": "Angina", "codes": ["I20.9"]}))
    assert scores["top1"] == (0, 1)
    assert scores["top1_with_codes"] == (found, 1)


def test_cant_miss_counts_each_at_any_rank() -> None:
    scores = score(record("A", "B", "C", "D"), gold(cant_miss=["D", "Sepsis", "A"]))
    assert scores["cant_miss_recall"] == (2, 3)


def test_a_true_differential_counts_its_first_three() -> None:
    assert score(record("A", "B", "C"), gold(differential=["C", "X", "A", "B"]))["differential_recall"] == (2, 3)


@pytest.mark.parametrize(
    ("final", "true", "under", "over", "unknown"),
    [
        ("soon", "urgent", 1, 0, 0),
        ("emergency", "urgent", 0, 1, 0),
        ("urgent", "urgent", 0, 0, 0),
        ("undetermined", "urgent", 0, 0, 1),
        ("self_care", "routine", 1, 0, 0),
    ],
)
def test_triage(final: str, true: str, under: int, over: int, unknown: int) -> None:
    scores = score(record("A", urgency=final), gold(urgency=true))
    assert [scores[k][0] for k in ("under_triage", "over_triage", "undetermined")] == [under, over, unknown]


@pytest.mark.parametrize(
    ("cited", "held"),
    [("F2", 1), ("F3", 0), ("F4", 0), ("F5", 0), ("F6", 1), ("F7", 0), ("F99", 0), ("F1", 1)],
)
def test_a_citation_holds_when_its_fact_is_there_and_is_no_denial(cited: str, held: int) -> None:
    assert score(citing(cited, "F2"), None)["citation_validity"] == (held + 1, 2)


def test_a_fact_cited_for_and_against_does_not_hold() -> None:
    remarks = [{"check": "both_sides", "name": "Angina", "fact_id": "F2", "message": ""}]
    scores = score(citing("F2", "F6", checks={"answer_remarks": remarks}), None)
    assert scores["citation_validity"] == (1, 2)


def test_without_an_answer_all_is_missed() -> None:
    scores = score(record(), gold(diagnosis="A", cant_miss="A"))
    assert scores["whole_answers"] == scores["top1"] == scores["cant_miss_recall"] == (0, 1)
    assert "citation_validity" not in scores


def test_without_gold_only_form_is_measured() -> None:
    assert set(score(record("A"), None)) == {"whole_answers", "citation_validity"}


def test_gold_is_refused_by_place_and_never_repeated() -> None:
    for bad in ({"urgency": "PatientZebra"}, {"PatientZebra": 1}, {"diagnosis": [{"PatientZebra": "x"}]}):
        with pytest.raises(InputError) as caught:
            read_gold(gold_case(**bad))
        assert str(caught.value).startswith("gold")
        assert "Zebra" not in str(caught.value)
    assert read_gold(make_case()) is None


@pytest.mark.parametrize(
    ("code", "bound"),
    [("O14.1", True), ("N83.5", True), ("N44", True), ("C61", True), ("I20", False), ("N39.0", False)],
)
def test_diseases_of_one_sex_are_known_by_their_code(code: str, bound: bool) -> None:
    assert gold(diagnosis={"name": "x", "codes": [code]}).of_one_sex is bound


def test_the_interval_is_seeded_and_holds_the_share() -> None:
    parts = [(1.0, 1.0)] * 300 + [(0.0, 1.0)] * 100
    first, again = figure(parts), figure(parts)
    assert first.value == 0.75
    # For a share of 0.75 among 400 the normal approximation gives 0.7076 to 0.7924.
    assert (first.low, first.high) == pytest.approx((0.7076, 0.7924), abs=0.004)
    assert RESAMPLES == 2000
    assert first == again
    uneven = [(i % 7, 7.3 + i) for i in range(50)]
    assert figure(uneven) == figure(uneven)


def test_an_interval_narrows_with_more_cases() -> None:
    few, many = figure([(1, 1), (0, 1)] * 5), figure([(1, 1), (0, 1)] * 500)
    assert many.high - many.low < (few.high - few.low) / 4


def test_a_share_is_of_all_parts_and_not_the_mean_of_shares() -> None:
    assert figure([(1, 1), (0, 9)]).value == 0.1
    assert figures([{"a": (1, 1)}, {"b": (0, 1)}])["a"].cases == 1


@pytest.mark.parametrize(
    ("age", "band"),
    [(0.5, "under 2"), (2, "2 to 15"), (15.9, "2 to 15"), (16, "16 to 39"), (40, "40 to 64"), (65, "65 and over")],
)
def test_age_bands(age: float, band: str) -> None:
    assert groups_of(gold_case(age=age))["age"] == band


def test_groups_of_a_case_that_says_nothing() -> None:
    assert groups_of(make_case(language="zh-CN")) == {"age": "unknown", "sex": "unknown", "language": "zh"}
