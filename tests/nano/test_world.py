"""The made-up world: whole, consistent, and covering what it should."""

import random
from collections import Counter

import pytest

from antangel_cli.clinic.result import CODE_PATTERN
from nano.world import KNOWLEDGE, World, load_world


@pytest.fixture(scope="module")
def world() -> World:
    return load_world()


def test_covers_at_least_100_conditions_of_many_specialties(world: World) -> None:
    assert len(world.conditions) >= 100
    assert len({c.specialty for c in world.ordered}) >= 15


def test_every_condition_is_whole(world: World) -> None:
    import re

    for c in world.ordered:
        assert all(c.name), c.id
        assert all(c.test), c.id
        assert len(c.findings) >= 8, c.id
        assert c.negatives, c.id
        assert c.next_steps, c.id
        assert re.fullmatch(CODE_PATTERN, c.icd10), c.id
        assert c.ages[0][0] == 0, c.id
        assert c.ages[-1][1] >= 95, c.id


def test_names_and_phrases_are_unique_in_each_language(world: World) -> None:
    for zh in (False, True):
        names = Counter(c.name[zh] for c in world.ordered)
        phrases = Counter(p for s in world.signs.values() for p in s.phrases[zh])
        assert max(names.values()) == 1
        assert max(phrases.values()) == 1


def test_all_ages_and_both_sexes_are_drawn(world: World) -> None:
    rng = random.Random(0)
    drawn = [world.draw(rng) for _ in range(1500)]
    assert {p.sex for p in drawn} == {"female", "male"}
    assert min(p.age for p in drawn) < 1
    assert max(p.age for p in drawn) > 85
    assert len({p.condition.id for p in drawn}) > 0.9 * len(world.conditions)


def test_a_patient_has_nothing_that_age_or_sex_excludes(world: World) -> None:
    rng = random.Random(1)
    for _ in range(500):
        p = world.draw(rng)
        assert all(world.signs[f].possible(p.age, p.sex) for f in (*p.present, *p.absent))
        assert not {*p.present} & {*p.absent}
        assert p.condition.sex_odds[p.sex] > 0


def test_the_posterior_is_a_distribution_led_by_what_was_found(world: World) -> None:
    posterior = world.posterior(60, "male", ("chest_pain_crushing", "troponin_high", "ecg_st_elevation"), ())
    assert sum(posterior.values()) == pytest.approx(1)
    assert next(iter(posterior)) == "acute_myocardial_infarction"


def test_an_unknown_finding_is_named(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    for path in KNOWLEDGE.glob("*.toml"):
        text = path.read_text(encoding="utf-8")
        (folder / path.name).write_text(text.replace("troponin_high =", "troponin_hihg =", 1), encoding="utf-8")
    with pytest.raises(ValueError, match="troponin_hihg"):
        load_world(folder)
