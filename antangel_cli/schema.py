"""`antangel schema`: the JSON Schemas, and filled examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.diagnose import DiagnoseOptions, diagnose
from antangel_cli.clinic.model import Piece, Task, Turn
from antangel_cli.clinic.readers import read_case
from antangel_cli.clinic.result import SCHEMA_ID, URGENCIES, Differential
from antangel_cli.files import STDIN, require_writable, write_whole
from antangel_cli.options import CaseOptions
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal

SAMPLES = Path(__file__).resolve().parent / "samples"
STATUSES = ("ok", "degraded", "error", "demonstration")
REQUIRED = ("schema", "id", "status", "error")

Schema = dict[str, Any]


def schema(settings: Settings, kind: str, example: bool, options: CaseOptions) -> int:
    """Print a schema, or an example in the language of `--lang`."""
    require_writable(options.output, options.force)
    content = EXAMPLES[kind](settings.lang or "en") if example else SCHEMAS[kind]()
    text = json.dumps(content, ensure_ascii=False, indent=2)
    if options.output is None or options.output == STDIN:
        Terminal.of(settings).answer(text)
    else:
        write_whole(options.output, f"{text}\n", options.force)
    return 0


def case_schema() -> Schema:
    """The schema of `antangel.case/1`; keys that begin with `x_` are allowed and ignored."""
    return {**Case.model_json_schema(), "$schema": _DRAFT, "patternProperties": {"^x_": {}}}


def result_schema() -> Schema:
    """The schema of `antangel.ddx/1`: a result, or the error record of one line of a batch."""
    answer = Differential.model_json_schema()
    definitions = answer.pop("$defs")
    optional = {"type": ["object", "null"]}
    properties: Schema = {
        "schema": {"const": SCHEMA_ID},
        "id": {"type": ["string", "null"]},
        "line": {"type": "integer", "minimum": 1, "description": "only in the error record of a batch"},
        "run_id": {"type": "string"},
        "status": {"enum": list(STATUSES)},
        "degraded": {"type": "array", "items": {"type": "string"}},
        "created": {"type": "string", "format": "date-time"},
        "notice": {"type": "string"},
        "language": {"enum": ["en", "zh"]},
        "facts": {"type": "array", "items": {"type": "object"}},
        "result": {"anyOf": [answer, {"type": "null"}]},
        "checks": {"type": "object"},
        "urgency_final": {"enum": list(URGENCIES)},
        "agreement": optional,
        "provenance": {"type": "object"},
        "reasoning": {"type": "string", "description": "only with --reasoning show"},
        "error": {"anyOf": [_ERROR, {"type": "null"}]},
    }
    return {
        "$schema": _DRAFT,
        "$defs": definitions,
        "title": "Result",
        "type": "object",
        "properties": properties,
        "required": list(REQUIRED),
        "additionalProperties": False,
    }


def batch_schema() -> Schema:
    """The schema of one input line of a batch: a case, or a case or text with its id beside it."""
    case = case_schema()
    definitions = case.pop("$defs")
    wrapped = {
        "type": "object",
        "properties": {
            "id": case["properties"]["id"],
            "case": {"anyOf": [{"type": "string"}, {"type": "object"}]},
        },
        "required": ["id", "case"],
        "additionalProperties": False,
    }
    return {"$schema": _DRAFT, "$defs": definitions, "title": "Line", "anyOf": [case, wrapped]}


def case_example(lang: str) -> Schema:
    """A filled case."""
    return _sample(f"case.{lang}")


def batch_example(lang: str) -> Schema:
    """A line of a batch."""
    case = _sample(f"case.{lang}")
    return {"id": case["id"], "case": case}


def result_example(lang: str) -> Schema:
    """A filled result: the example case with a written answer, through the same checks as a model's."""
    data = json.dumps(_sample(f"case.{lang}")).encode()
    return diagnose(read_case(data, None, "case"), DiagnoseOptions(reasoning="off"), WrittenAnswer(lang))


class WrittenAnswer:
    """Stands where a model would: answers the example case with an answer written by hand."""

    name = "example"
    demonstration = False
    context = 8192

    def __init__(self, lang: str) -> None:
        self.provenance: dict[str, Any] = {}
        self._answer = json.dumps(_sample(f"answer.{lang}"), ensure_ascii=False)

    def count(self, turns: Sequence[Turn]) -> int:
        """Nothing is tokenised."""
        return 0

    def submit(self, task: Task) -> int:
        """The one task."""
        return 0

    def step(self) -> list[Piece]:
        """The whole answer."""
        return [Piece(0, "answer", self._answer, 0, "stop", "stop")]

    def abort(self, task: int) -> None:
        """Nothing runs."""

    def stats(self) -> dict[str, float | int | None]:
        """Nothing is measured."""
        return {}

    def close(self) -> None:
        """Nothing is held."""


def _sample(name: str) -> Schema:
    content: Schema = json.loads((SAMPLES / f"{name}.json").read_text(encoding="utf-8"))
    return content


_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_ERROR = {
    "type": "object",
    "properties": {
        "code": {"type": "string"},
        "message": {"type": "string"},
        "retryable": {"type": "boolean"},
        "stage": {"type": "string"},
    },
    "required": ["code", "message", "retryable", "stage"],
    "additionalProperties": False,
}
SCHEMAS = {"case": case_schema, "result": result_schema, "batch": batch_schema}
EXAMPLES = {"case": case_example, "result": result_example, "batch": batch_example}
