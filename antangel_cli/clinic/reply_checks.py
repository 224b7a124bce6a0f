"""Post-checks of a reply in free text: what `diagnose` finds in an answer, for chat and ask."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from antangel_cli.clinic.checks.drugs.conflicts import UNRECORDED, reply_conflicts
from antangel_cli.clinic.checks.drugs.wording import say
from antangel_cli.clinic.dose import withhold_doses
from antangel_cli.clinic.dose_refusal import refusal_remark
from antangel_cli.clinic.spoken import NOT_ASKED, Spoken

_SAY = {
    "cant_miss_absent": ("{concern}: a rule fired, and no reply names it", "{concern}：规则已触发，但回复未提及"),
    "dose_unchecked": ("a dose that nobody checked is shown", "显示了未核对的剂量"),
    "dose_withheld": ("a dose was withheld", "剂量已隐去"),
}
_PLACES = ("question", "reply")
_GROUNDS = {"not_recorded": "not_recorded", "unknown": "pregnancy_unknown"}


def reply_checks(question: str, reply: str, spoken: Spoken, earlier: Sequence[str] = ()) -> dict[str, Any]:
    """As JSON carries it under `checks`: those of all that is known of the patient, and those of the reply.

    A diagnosis that must not be missed counts as named where an `earlier` reply named it.
    """
    allergy, pregnancy = reply_conflicts(question, reply, spoken.case, spoken.facts)
    found = spoken.checks.to_json()
    return {
        **found,
        "allergy_conflicts": [*found["allergy_conflicts"], *allergy],
        "pregnancy_conflicts": [*found["pregnancy_conflicts"], *pregnancy],
        "answer_remarks": [*_cant_miss(spoken, (*earlier, reply)), *_doses(reply, spoken)],
    }


def _cant_miss(spoken: Spoken, replies: Sequence[str]) -> Iterator[dict[str, Any]]:
    text = unicodedata.normalize("NFKC", "\n".join(replies)).lower()
    for fired in spoken.checks.red_flags:
        wanted = fired.rule.cant_miss
        if wanted and not re.search(wanted, text):
            concern = fired.rule.concern["zh" if spoken.case.chinese else "en"]
            yield _remark("cant_miss_absent", spoken, rule=fired.rule.id, concern=concern)


def _doses(reply: str, spoken: Spoken) -> Iterator[dict[str, Any]]:
    if withhold_doses(reply, spoken.case.chinese) == reply:
        return
    refused = spoken.doses_refused
    yield _remark("dose_unchecked" if refused is None else "dose_withheld", spoken)
    if refused not in (None, NOT_ASKED):
        yield refusal_remark(str(refused), spoken.case.chinese)


def _remark(check: str, spoken: Spoken, **about: str) -> dict[str, Any]:
    return {"check": check, **about, "message": _SAY[check][spoken.case.chinese].format(**about)}


def lines_beneath(checks: Mapping[str, Any], chinese: bool) -> list[str]:
    """What stands beneath a reply, each line once; what nobody recorded is said of all drugs at once."""
    label = "核查" if chinese else "Check"
    conflicts = [
        c for key in ("allergy_conflicts", "pregnancy_conflicts") for c in checks[key] or () if c["place"] in _PLACES
    ]
    known = [c["message"] for c in conflicts if c["basis"] not in UNRECORDED]
    unknown = [_together(conflicts, basis, chinese) for basis in UNRECORDED]
    # A dose that is withheld is marked where it stood.
    remarks = [remark["message"] for remark in checks["answer_remarks"] if remark["check"] != "dose_withheld"]
    return [f"{label}: {text}" for text in dict.fromkeys([*known, *unknown, *remarks]) if text]


def _together(conflicts: Sequence[Mapping[str, Any]], basis: str, chinese: bool) -> str:
    drugs = dict.fromkeys(c["drug"] for c in conflicts if c["basis"] == basis)
    return say(_GROUNDS[basis], chinese, drug=("、" if chinese else ", ").join(drugs)) if drugs else ""
