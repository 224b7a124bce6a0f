"""The published schemas: valid themselves, true of the examples, and as strict as the readers."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from antangel_cli.clinic.readers import read_case
from antangel_cli.clinic.schemas import NAMES, example, schema
from tests.clinic.cases import EXAMPLES


@pytest.mark.parametrize("name", NAMES)
def test_schema_is_valid(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chinese", [True, False])
def test_examples_fit(name: str, chinese: bool) -> None:
    jsonschema.validate(example(name, chinese), schema(name))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda p: p.stem)
def test_cases_fit(path: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.validate(content, schema("case"))
    jsonschema.validate(content, schema("batch"))


@pytest.mark.parametrize("chinese", [True, False])
def test_the_case_example_is_read(chinese: bool) -> None:
    case = read_case(json.dumps(example("case", chinese)).encode(), None)
    assert case.chinese == chinese


@pytest.mark.parametrize(
    "content",
    [
        {"id": "a"},
        {"schema": "antangel.case/1", "id": "a b"},
        {"schema": "antangel.case/1", "id": "a", "finding": []},
        {"schema": "antangel.case/1", "id": "a", "patient": {"name": "x"}},
        {"schema": "antangel.case/1", "id": "a", "findings": [{"text": ""}]},
    ],
)
def test_what_the_reader_refuses_does_not_fit(content: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema("case"))


def test_extensions_fit() -> None:
    content = {"schema": "antangel.case/1", "id": "a", "x_mine": 1, "patient": {"x_other": []}}
    jsonschema.validate(content, schema("case"))


@pytest.mark.parametrize(
    "inner", ["58-year-old with chest pain", {"schema": "antangel.case/1", "chief_complaint": "cough"}]
)
def test_wrapped_lines_fit(inner: Any) -> None:
    jsonschema.validate({"id": "a", "case": inner}, schema("batch"))


def test_a_result_without_its_parts_does_not_fit() -> None:
    for key in schema("result")["anyOf"][0]["required"]:
        content = {k: v for k, v in example("result").items() if k != key}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(content, schema("result"))


def test_no_titles_but_the_first() -> None:
    assert '"title"' not in json.dumps({k: v for k, v in schema("case").items() if k != "title"})
