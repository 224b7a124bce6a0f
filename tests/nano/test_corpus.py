"""The corpus: deterministic, in the form that is sent, and honest about what was held out."""

import json

import pytest
from jsonschema import Draft202012Validator

from antangel_cli.clinic.facts import facts
from antangel_cli.clinic.prompt import case_message
from antangel_cli.clinic.result import answer_schema
from nano.corpus import FRAMES, Example, ask_example, diagnose_example
from nano.world import World, load_world


@pytest.fixture(scope="module")
def world() -> World:
    return load_world()


@pytest.fixture(scope="module")
def examples(world: World) -> list[Example]:
    return [diagnose_example(world, seed, zh) for seed in range(150) for zh in (False, True)]


def test_the_same_seed_gives_the_same_example(world: World) -> None:
    assert diagnose_example(world, 7, True) == diagnose_example(world, 7, True)
    assert ask_example(world, 7, False) == ask_example(world, 7, False)
    assert diagnose_example(world, 7, True) != diagnose_example(world, 8, True)


def test_the_message_is_the_one_that_diagnose_sends(examples: list[Example]) -> None:
    for e in examples:
        assert e.case is not None
        assert e.user == case_message(e.case, e.zh)


def test_every_answer_satisfies_the_schema_of_its_own_case(examples: list[Example]) -> None:
    for e in examples:
        assert e.case is not None
        Draft202012Validator(answer_schema([f.id for f in facts(e.case)])).validate(json.loads(e.answer))


def test_reasoning_cites_facts_of_the_case_only(examples: list[Example]) -> None:
    import re

    for e in examples:
        assert e.case is not None
        known = {f.id for f in facts(e.case)}
        assert set(re.findall(r"\bF\d+\b", e.reply)) <= known


def test_every_fact_cited_in_support_is_a_present_one(examples: list[Example]) -> None:
    for e in examples:
        assert e.case is not None
        absent = {f.id for f in facts(e.case) if f.absent}
        for d in json.loads(e.answer)["differential"]:
            assert not absent & {s["fact_id"] for s in d["supporting"]}


def _literal(frame: str) -> str:
    """The longest run of a frame that is not a placeholder."""
    import re

    return max(re.split(r"\{\w+\}", frame), key=len)


@pytest.mark.parametrize("zh", [False, True])
def test_held_out_frames_never_occur_in_training(world: World, zh: bool) -> None:
    telling = {_literal(frames[zh][-1]) for name, frames in FRAMES.items() if name in ("open", "also", "history")}
    train = "\n".join(diagnose_example(world, s, zh).user for s in range(400))
    held = "\n".join(diagnose_example(world, s, zh, held_out=True).user for s in range(400))
    for words in telling:
        assert words not in train
        assert words in held


def test_styles_and_plain_questions_all_occur(world: World, examples: list[Example]) -> None:
    cases = [e.case for e in examples if e.case]
    assert any(c.narrative and not c.findings for c in cases)
    assert any(c.findings and not c.narrative for c in cases)
    assert any(c.chief_complaint and c.narrative for c in cases)
    replies = [ask_example(world, s, False).reply for s in range(200)]
    assert any("demonstration" in reply for reply in replies)
    assert len(set(replies)) > 100
