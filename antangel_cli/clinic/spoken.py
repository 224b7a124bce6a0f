"""A patient as a conversation knows them: the case that was loaded, and all that was said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from antangel_cli.clinic.case import Case, Report
from antangel_cli.clinic.checks import Checks, facts_to_use, run_checks
from antangel_cli.clinic.dose import mark_doses, withhold_doses
from antangel_cli.clinic.dose_refusal import dose_refusal
from antangel_cli.clinic.facts import Fact
from antangel_cli.clinic.readers.prose import prose_case

NOT_ASKED = "not_asked"


@dataclass(frozen=True)
class Spoken:
    """The patient, the facts that are stated, and what the tool finds in them. `doses`: they were asked for."""

    case: Case
    facts: tuple[Fact, ...] = field(repr=False)
    checks: Checks
    doses: bool = False

    @classmethod
    def of(cls, case: Case | None, said: Sequence[str], doses: bool = False) -> Spoken:
        """Run the checks over a case, if one was loaded, and what was said. Raises InputError above 10,000 facts."""
        whole = spoken_case(case, said)
        rows = facts_to_use(whole)
        return cls(whole, rows, run_checks(whole, rows), doses)

    @property
    def doses_refused(self) -> str | None:
        """Why a dose is not shown: `not_asked`, or a reason of `dose_refusal`; None when it is, marked."""
        return dose_refusal(self.case, self.facts) if self.doses else NOT_ASKED

    def shown(self, text: str) -> str:
        """A text of the model as it may be shown: its doses withheld, or marked as unchecked."""
        return (mark_doses if self.doses_refused is None else withhold_doses)(text, self.case.chinese)


def spoken_case(case: Case | None, said: Sequence[str]) -> Case:
    """A case with what was said as notes; without a case, one of plain text."""
    texts = [text for text in said if text.strip()]
    if case is not None:
        return case.model_copy(update={"notes": (*case.notes, *(Report(text=text) for text in texts))})
    return prose_case("\n".join(texts), "chat")
