"""The document of a conversation, `antangel.session/1`: all that is needed to go on with it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Final, Literal

from pydantic import Field, ValidationError

from antangel_cli.clinic.case import Case, Part
from antangel_cli.clinic.model import Finish, Model
from antangel_cli.errors import UsageError

SCHEMA_ID: Final = "antangel.session/1"


class Exchange(Part):
    """A message and its reply. `sent` is what the model was given, to the letter; `reply` what it said.

    The next turn's tokens begin with these, so that the model need not read them again.
    """

    asked: str
    attached: tuple[str, ...] = ()
    sent: str
    reply: str
    finish: Finish
    tokens: int
    seed: int
    at: str


class WhichModel(Part):
    """The model that answered last: its name, and the hash of its weights."""

    name: str
    weights: str | None
    demonstration: bool

    @classmethod
    def of(cls, model: Model) -> WhichModel:
        """That of a model."""
        return cls(name=model.name, weights=model.provenance.get("weights"), demonstration=model.demonstration)


class KeptCase(Part):
    """A case with what its reader noted."""

    document: Case
    input_warnings: tuple[dict[str, str | int], ...] = ()
    sources: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def of(cls, case: Case) -> KeptCase:
        """A case as it is kept."""
        return cls(document=case, input_warnings=case._input_warnings, sources=case._sources)

    def restored(self) -> Case:
        """The case as it was read."""
        case = self.document.model_copy()
        case._input_warnings, case._sources = self.input_warnings, self.sources
        return case


class Session(Part):
    """A conversation as it is kept. Times are UTC; `version` is the tool's."""

    schema_: Literal["antangel.session/1"] = Field(default=SCHEMA_ID, alias="schema")
    version: str
    created: str
    updated: str
    model: WhichModel
    seed: int
    settings: dict[str, float | int | str | None]
    system: str | None = None
    case: KeptCase | None = None
    turns: tuple[Exchange, ...] = ()

    def to_json(self) -> str:
        """The document, ended by a newline."""
        content = self.model_dump(mode="json", by_alias=True)
        return f"{json.dumps(content, ensure_ascii=False, indent=1)}\n"

    @classmethod
    def from_json(cls, data: bytes, name: str) -> Session:
        """Read a document. Raises UsageError for one that is damaged, with the place and never with a word of it."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise UsageError(
                f"The session {name} is damaged{_place(error)}.",
                f"Restore its file, or delete it: /forget {name}",
                code="session_damaged",
            ) from None


def _place(error: ValidationError) -> str:
    """Where the first fault is: names of fields and numbers only, no key that the file made up."""
    known = {name for kind in (Session, Exchange, WhichModel, KeptCase) for name in kind.model_fields} | {"schema"}
    place = [
        str(part) for part in error.errors(include_input=False)[0]["loc"] if isinstance(part, int) or part in known
    ]
    return f" at {'.'.join(place)}" if place else ""


def now() -> str:
    """The time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
