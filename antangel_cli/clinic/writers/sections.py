"""What a page says and in which order, whatever it is set in: urgency first, and what was not checked last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from antangel_cli.clinic.notice import DEMONSTRATION, NOTICE
from antangel_cli.clinic.rules import rules_status
from antangel_cli.clinic.writers.layout import printable
from antangel_cli.clinic.writers.vitals import vitals_lines
from antangel_cli.clinic.writers.words import VALUES, WORDS

Lines = Iterable[str]


@dataclass(frozen=True)
class Page:
    """A record on its way to paper, in one language. How each kind of line looks is the setting's to say."""

    record: dict[str, Any] = field(repr=False)
    chinese: bool

    def text(self, text: str, indent: int = 0) -> Lines:
        """A paragraph."""
        raise NotImplementedError

    def labelled(self, label: str, text: str, indent: int = 0) -> Lines:
        """`label: text`."""
        raise NotImplementedError

    def item(self, text: str) -> Lines:
        """One item of a list."""
        raise NotImplementedError

    def ranked(self, rank: int, text: str) -> Lines:
        """One item of a numbered list."""
        raise NotImplementedError

    def heading(self, text: str) -> Lines:
        """The heading of a section."""
        raise NotImplementedError

    def rule(self) -> Lines:
        """A line across the page."""
        raise NotImplementedError

    def quoted(self, text: str, fact_id: str) -> str:
        """A fact as evidence quotes it: `"troponin I 850 ng/L high" (F12)`."""
        return f"“{text}”（{fact_id}）" if self.chinese else f'"{text}" ({fact_id})'

    def list(self, texts: Iterable[str]) -> str:
        """Texts on one line."""
        return ("、" if self.chinese else ", ").join(texts)

    def word(self, key: str, **about: str) -> str:
        """A word of the page."""
        return WORDS[key][self.chinese].format(**about) if about else WORDS[key][self.chinese]

    def value(self, key: str) -> str:
        """A label such as `very_likely`, in words."""
        return VALUES[key][self.chinese] if key in VALUES else key

    def fact(self, fact_id: str) -> str:
        """A fact with its text, or its number alone where the case has no such fact."""
        text = next((f["text"] for f in self.record["facts"] if f["id"] == fact_id), None)
        return fact_id if text is None else self.quoted(text, fact_id)

    def facts(self, fact_ids: Iterable[str]) -> str:
        """Several facts on one line."""
        return self.list(map(self.fact, fact_ids))


def _header(page: Page) -> Iterator[str]:
    record, made = page.record, page.record["provenance"]
    language = "zh" if page.chinese else "en"
    demonstration = made["model"]["demonstration"]
    if demonstration:
        yield from page.text(DEMONSTRATION[language])
    yield from page.labelled(page.word("case"), record["id"])
    yield from page.labelled(page.word("time"), record["created"])
    name = printable(str(made["model"]["name"]))
    yield from page.labelled(page.word("model"), f"{name} ({page.value('demonstration')})" if demonstration else name)
    if record["degraded"]:
        yield from page.labelled(page.word("degraded"), page.list(map(page.value, record["degraded"])))
    yield from page.text(NOTICE[language])
    yield from page.text(rules_status(chinese=page.chinese))
    yield from page.rule()


def _urgency(page: Page) -> Iterator[str]:
    yield from page.labelled(page.word("urgency"), page.value(page.record["urgency_final"]))
    result, floor = page.record["result"], page.record["checks"]["urgency_floor"]
    about = {
        "floor": page.value(floor) if floor else "",
        "model": page.value(result["urgency"]) if result else "",
    }
    key = ("model_says" if floor else "model_only") if result else ("floor_only" if floor else "nothing")
    yield from page.text(page.word(key, **about), 2)
    if result and result["urgency_reason"]:
        yield from page.labelled(page.word("reason"), result["urgency_reason"], 2)
    for line in vitals_lines(page.record["checks"], page.chinese, page.list):
        yield from page.text(line, 2)


def _red_flags(page: Page) -> Iterator[str]:
    yield from page.heading(page.word("red_flags"))
    by_rule, result = page.record["checks"]["rule_red_flags"], page.record["result"]
    for flag in by_rule:
        yield from page.item(f"{flag['concern']} [{page.word('by_rule')}]: {page.facts(flag['fact_ids'])}")
    for flag in result["red_flags"] if result else ():
        text = f"{flag['finding']}: {flag['concern']} [{page.word('by_model')}]"
        yield from page.item(f"{text}: {page.facts(flag['fact_ids'])}")
    if not by_rule and not (result and result["red_flags"]):
        yield from page.item(page.word("no_red_flags" if result else "no_rule_flags"))


def _conflicts(page: Page) -> Iterator[str]:
    checks = page.record["checks"]
    found = [entry["message"] for key in ("allergy_conflicts", "pregnancy_conflicts") for entry in checks[key] or ()]
    yield from _section(page, "conflicts", [*dict.fromkeys(found)])


def _answer(page: Page) -> Iterator[str]:
    result, error = page.record["result"], page.record["error"]
    if result is None:
        yield from page.heading(page.word("no_answer"))
        if error:
            yield from page.item(f"{page.value(error['code'])} ({error['code']})")
        return
    yield from page.heading(page.word("summary"))
    yield from page.text(result["summary"])
    yield from page.heading(page.word("differential"))
    for rank, diagnosis in enumerate(result["differential"], 1):
        yield from _diagnosis(page, rank, diagnosis)
    yield from _others(page)


def _diagnosis(page: Page, rank: int, diagnosis: Mapping[str, Any]) -> Iterator[str]:
    grave = f" [{page.word('cant_miss')}]" if diagnosis["cant_miss"] else ""
    title = f"{diagnosis['name']} - {page.value(diagnosis['likelihood'])}{grave}{_agreed(page, rank)}"
    yield from page.ranked(rank, title)
    for label, key in (("for", "supporting"), ("against", "contradicting")):
        for evidence in diagnosis[key]:
            why = f": {evidence['why']}" if evidence["why"] else ""
            yield from page.labelled(page.word(label), page.fact(evidence["fact_id"]) + why, 3)
    if diagnosis["missing"]:
        yield from page.labelled(page.word("lacks"), page.list(diagnosis["missing"]), 3)
    if diagnosis["discriminating_test"]:
        yield from page.labelled(page.word("decides"), diagnosis["discriminating_test"], 3)
    if diagnosis["codes"]:
        yield from page.labelled(page.word("codes"), page.list(diagnosis["codes"]), 3)


def _agreed(page: Page, rank: int) -> str:
    """How many samples have it in their top three, where several were taken."""
    found = page.record["agreement"]
    if found is None:
        return ""
    runs = str(found["diagnoses"][rank - 1]["runs"])
    return f" ({page.word('agreed', runs=runs, completed=str(found['completed']))})"


def _others(page: Page) -> Iterator[str]:
    found = page.record["agreement"]
    for entry in found["others"] if found else ():
        runs = page.word("agreed", runs=str(entry["runs"]), completed=str(found["completed"]))
        yield from page.item(f"{page.word('not_listed')}: {entry['name']} ({runs})")


def _next_steps(page: Page) -> Iterator[str]:
    if not page.record["result"]:
        return
    yield from page.heading(page.word("next_steps"))
    for step in page.record["result"]["next_steps"]:
        rationale = f" - {step['rationale']}" if step["rationale"] else ""
        yield from page.item(f"{page.value(step['timing'])}: {step['action']} ({page.value(step['kind'])}){rationale}")


def _missing(page: Page) -> Iterator[str]:
    result = page.record["result"]
    if not result:
        return
    yield from _section(page, "missing", result["missing_information"])
    yield ""
    reason = f" - {result['confidence_reason']}" if result["confidence_reason"] else ""
    yield from page.labelled(page.word("confidence"), f"{page.value(result['confidence'])}{reason}")


def _remarks(page: Page) -> Iterator[str]:
    checks = page.record["checks"]
    yield from _section(page, "remarks", [remark["message"] for remark in checks["answer_remarks"]])
    found = [page.word("set_aside", **_texts(entry)) for entry in checks["set_aside"]]
    found += [page.word("accepted", **_texts(entry)) for entry in checks["implausible_accepted"]]
    found += [page.word("injection", **_texts(entry)) for entry in checks["injection_suspected"]]
    found += [page.word("converted", **_texts(entry)) for entry in checks["unit_conversions"]]
    found += [warning["message"] for warning in checks["input_warnings"]]
    yield from _section(page, "warnings", found)
    yield from _section(page, "not_checked", [entry["message"] for entry in checks["not_run"]])


def _reasoning(page: Page) -> Iterator[str]:
    """The reasoning that was asked for, last: a page begins with what must be read first."""
    if page.record.get("reasoning"):
        yield from page.heading(page.word("reasoning"))
        for paragraph in page.record["reasoning"].splitlines():
            yield from page.text(paragraph)


def _section(page: Page, heading: str, texts: list[str]) -> Iterator[str]:
    if texts:
        yield from page.heading(page.word(heading))
        for text in texts:
            yield from page.item(text)


def _texts(entry: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in entry.items()}


SECTIONS: tuple[Callable[[Page], Iterator[str]], ...] = (
    _header,
    _urgency,
    _red_flags,
    _conflicts,
    _answer,
    _next_steps,
    _missing,
    _remarks,
    _reasoning,
)
