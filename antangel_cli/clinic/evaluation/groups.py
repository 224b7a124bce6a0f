"""The groups that figures are given for: age band, sex and language."""

from __future__ import annotations

from antangel_cli.clinic.case import Case

BANDS = ((2, "under 2"), (16, "2 to 15"), (40, "16 to 39"), (65, "40 to 64"), (10_000, "65 and over"))
"""Each band by the age in years that it ends before."""

NO_AGE = "unknown"
BAND_NAMES = (*(name for _, name in BANDS), NO_AGE)


def groups_of(case: Case) -> dict[str, str]:
    """The group of a case, by what it is grouped by."""
    return {
        "age": _band(case),
        "sex": case.patient.sex_at_birth,
        "language": "zh" if case.chinese else case.language.lower()[:2],
    }


def _band(case: Case) -> str:
    age = case.patient.age
    return NO_AGE if age is None else next(name for end, name in BANDS if age.years < end)
