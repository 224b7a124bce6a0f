"""`gold`: what is known of a case that nobody tells the model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError

from antangel_cli.clinic.case import Case, Part
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.post_checks import normalized_name

CATEGORY = 3
"""Characters of an ICD-10 code that name its category: `I21` of `I21.0`."""

_SEX_BOUND = ("O", "C51", "C52", "C53", "C54", "C55", "C56", "C57", "C58", "C60", "C61", "C62", "C63")
_SEX_BOUND_RANGES = (("N40", "N53"), ("N70", "N98"))
"""Categories of ICD-10 that only one sex can have: pregnancy, and diseases of the organs of one sex."""


class GoldPart(Part):
    """Base of what `gold` may hold; read from Python values, so that lists are taken for tuples."""

    model_config = ConfigDict(strict=False)


class Name(GoldPart):
    """A diagnosis by name, with other names and ICD-10 codes that mean it."""

    name: str = Field(min_length=1)
    synonyms: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()

    def named(self, diagnosis: dict[str, Any]) -> bool:
        """Whether a diagnosis of an answer has one of these names."""
        return normalized_name(diagnosis["name"]) in {normalized_name(name) for name in (self.name, *self.synonyms)}

    def coded(self, diagnosis: dict[str, Any]) -> bool:
        """Whether a diagnosis of an answer has a code of the same category."""
        return bool(_categories(self.codes) & _categories(diagnosis["codes"]))


def _categories(codes: tuple[str, ...] | list[str]) -> set[str]:
    return {code[:CATEGORY].upper() for code in codes if len(code) >= CATEGORY}


def _as_names(value: Any) -> Any:
    """One name or several, each as text or in full."""
    several = value if isinstance(value, list | tuple) else [value]
    return [{"name": each} if isinstance(each, str) else each for each in several]


Names = Annotated[tuple[Name, ...], BeforeValidator(_as_names)]


class Gold(GoldPart):
    """The right diagnosis (any of `diagnosis`), what must not be missed, how urgent it is, and a true differential.

    `differential` is ordered by probability. `sex_bound` says that only one sex can have it; `rubrics` are kept for a
    grader and not scored here.
    """

    diagnosis: Names = ()
    cant_miss: Names = ()
    differential: Names = ()
    urgency: Literal["emergency", "urgent", "soon", "routine", "self_care"] | None = None
    sex_bound: bool = False
    rubrics: tuple[Any, ...] = ()

    @property
    def of_one_sex(self) -> bool:
        """Whether a twin of the other sex would make no sense."""
        return self.sex_bound or any(_sex_bound(code.upper()) for name in self.diagnosis for code in name.codes)


def _sex_bound(code: str) -> bool:
    category = code[:CATEGORY]
    return category.startswith(_SEX_BOUND) or any(low <= category <= high for low, high in _SEX_BOUND_RANGES)


def read_gold(case: Case) -> Gold | None:
    """The case's gold. Raises InputError with the place of what is wrong, never with what stands there."""
    if case.gold is None:
        return None
    try:
        return Gold.model_validate(case.gold)
    except ValidationError as error:
        known = ("gold", *(part for part in error.errors(include_input=False)[0]["loc"] if _known(part)))
        raise InputError(
            "The gold of this case is not of the form that is read.",
            f"It may hold {', '.join(Gold.model_fields)}; see docs/evaluation.md.",
            ".".join(map(str, known)),
        ) from None


def _known(part: str | int) -> bool:
    """Whether a part of a place is ours to name: an unknown key can be anybody's words."""
    return isinstance(part, int) or part in Gold.model_fields or part in Name.model_fields
