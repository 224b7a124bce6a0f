"""The case: what a clinician tells the model, as `antangel.case/1` (docs/case.md, `antangel schema case`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

SCHEMA_ID = "antangel.case/1"

Status = Literal["present", "absent", "unknown"]
Text = Annotated[str, Field(min_length=1)]


class Part(BaseModel):
    """Base of everything in a case: closed to unknown keys, immutable, and silent about its values in errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, strict=True)

    def __repr__(self) -> str:
        """Name the type only: a repr may end in a log, and a case is a patient's words."""
        return f"<{type(self).__name__}>"

    __str__ = __repr__


class Age(Part):
    """An age: `value` in years (`a`), months (`mo`), weeks (`wk`) or days (`d`)."""

    value: float = Field(ge=0, le=50_000)
    unit: Literal["a", "mo", "wk", "d"] = "a"

    @property
    def years(self) -> float:
        """The age in years."""
        return self.value / {"a": 1.0, "mo": 12.0, "wk": 52.18, "d": 365.25}[self.unit]


class Pregnancy(Part):
    """Pregnancy status and, when known, gestation in weeks."""

    status: Literal["pregnant", "not_pregnant", "postpartum", "unknown"]
    weeks: float | None = Field(default=None, ge=0, le=45)


class Patient(Part):
    """Who the case is about, without anything that identifies them."""

    age: Age | None = None
    sex_at_birth: Literal["female", "male", "intersex", "unknown"] = "unknown"
    pregnancy: Pregnancy | None = None
    weight_kg: float | None = Field(default=None, gt=0, le=700)
    height_cm: float | None = Field(default=None, gt=0, le=280)
    region: str | None = None


class Finding(Part):
    """A symptom or sign that was looked for."""

    text: Text
    status: Status = "present"
    onset: str | None = None
    duration: str | None = None
    severity: str | None = None
    code: str | None = None


class Item(Part):
    """An entry of the history: past, family, social or a procedure."""

    text: Text
    status: Status = "present"
    code: str | None = None


class Medication(Part):
    """A drug the patient takes or took."""

    text: Text
    dose: str | None = None
    route: str | None = None
    status: Literal["active", "stopped", "unknown"] = "active"
    code: str | None = None


class Allergy(Part):
    """A substance the patient reacted to."""

    substance: Text
    reaction: str | None = None
    severity: str | None = None


class Measurement(Part):
    """A vital sign or laboratory result. `flag` is the laboratory's own: `H`, `L`, `HH`, `LL`, `N`, `A`."""

    name: Text
    value: float | str
    unit: str | None = None
    time: str | None = None
    ref_low: float | None = None
    ref_high: float | None = None
    flag: str | None = None
    code: str | None = None


class Report(Part):
    """The text of an imaging report or a note."""

    text: Text
    name: str | None = None
    time: str | None = None


class Case(Part):
    """One patient's case, `antangel.case/1`. `no_known_allergies` is None when nobody asked."""

    schema_: Literal["antangel.case/1"] = Field(alias="schema")
    id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    language: str = "en"
    setting: Literal["ed", "ward", "icu", "clinic", "tele", "unknown"] = "unknown"
    question: str | None = None
    patient: Patient = Patient()
    chief_complaint: str | None = None
    narrative: str | None = None
    findings: tuple[Finding, ...] = ()
    history: tuple[Item, ...] = ()
    family: tuple[Item, ...] = ()
    social: tuple[Item, ...] = ()
    procedures: tuple[Item, ...] = ()
    medications: tuple[Medication, ...] = ()
    allergies: tuple[Allergy, ...] = ()
    no_known_allergies: bool | None = None
    vitals: tuple[Measurement, ...] = ()
    labs: tuple[Measurement, ...] = ()
    imaging: tuple[Report, ...] = ()
    notes: tuple[Report, ...] = ()
    gold: dict[str, Any] | None = None

    _input_warnings: tuple[dict[str, str | int], ...] = PrivateAttr(default=())
    """What the reader dropped or wondered about; becomes `checks.input_warnings`."""
    _sources: dict[str, str] = PrivateAttr(default_factory=dict)
    """Where each part (`labs[3]`, `narrative`) stood in the document it was read from, when that was no case."""
    _subject: str | None = PrivateAttr(default=None)
    """The reference of a FHIR input's Patient, for FHIR output; never shown to the model."""

    @property
    def chinese(self) -> bool:
        """Whether the case's language is Chinese, and so the headings of its prompt and page."""
        return self.language.lower().startswith("zh")
