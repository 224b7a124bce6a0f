"""Inputs that would fill the memory or the day are refused, by what they have too much of."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.checks import facts_to_use
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.facts import MOST_FACTS
from antangel_cli.clinic.readers import read_case
from tests.clinic.cases import make_case

HEAD = '{"schema": "antangel.case/1", "id": "a", "chief_complaint": "cough", '
MIB = 1 << 20


def document(content: str) -> str:
    return f"{HEAD}{content}}}"


def many(part: str, key: str = "findings", size: int = MIB - 200) -> str:
    return document(f'"{key}": [{",".join([part] * (size // (len(part) + 1)))}]')


BOMBS: dict[str, tuple[str, str]] = {
    "small findings": (many('{"text":"a"}'), "parts"),
    "empty lists": (many("[]", "x_note"), "parts"),
    "findings that are none": (many("1", size=24_000), "entries"),
    "findings with an unknown key": (many('{"text": "a sign that was seen", "b": 1}', size=460_000), "entries"),
    "unknown keys": (document(",".join(f'"k{i}": 1' for i in range(20_000))), "entries"),
    "a sentence a letter": (document(f'"narrative": "{"a. " * 250_000}"'), "facts"),
    "a line a letter": (document('"narrative": "' + "a\\n" * 250_000 + '"'), "facts"),
}


def read(text: str) -> Case:
    case = read_case(text.encode(), None, "case")
    facts_to_use(case)
    return case


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_fill_the_memory_is_refused(name: str) -> None:
    text, what = BOMBS[name]
    assert len(text) < MIB
    with pytest.raises(InputError, match=rf"more than [\d,]+ {what}"):
        read(text)


@pytest.mark.parametrize("name", ["small findings", "a sentence a letter", "findings with an unknown key"])
def test_and_takes_at_most_ten_times_its_size(name: str) -> None:
    text = BOMBS[name][0]
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            read(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * max(len(text), MIB // 4)


def test_a_key_repeated_after_many_is_found_at_once() -> None:
    keys = [f'"k{i}":"{"x" * 20}"' for i in range(20_000)]
    started = time.process_time()
    with pytest.raises(InputError, match="Key 20004 of an object repeats"):
        read(document(",".join([*keys, '"k7":1'])))
    assert time.process_time() - started < 1


def largest(entry: dict[str, Any], count: int) -> Case:
    return make_case(findings=[entry] * count)


@pytest.mark.parametrize(
    "made",
    [
        lambda: largest({"text": "a sign in words of usual length", "status": "absent"}, 5000),
        lambda: make_case(narrative="Pain came on at night. " * (MOST_FACTS - 1)),
        lambda: make_case(narrative="," * 900_000),
        lambda: make_case(narrative='\\", {[' * 50_000),
    ],
    ids=["entries", "sentences", "commas", "quoted signs"],
)
def test_long_cases_of_words_are_read(made: Callable[[], Case]) -> None:
    assert len(facts_to_use(made())) <= MOST_FACTS


def test_the_number_of_facts_is_counted_to_the_last() -> None:
    words = "Pain came on at night. "
    assert len(facts_to_use(make_case(narrative=words * (MOST_FACTS - 1)))) == MOST_FACTS
    with pytest.raises(InputError, match="more than 10,000 facts"):
        facts_to_use(make_case(narrative=words * MOST_FACTS))


def test_json_of_usual_density_is_read_whatever_its_size() -> None:
    reading = {"name": "potassium", "value": 4.1, "unit": "mmol/L", "time": "2024-01-02T08:00:00Z"}
    assert len(json.dumps(make_case(labs=[reading] * 9_000).model_dump(mode="json"))) > MIB // 2
