"""The page people file and print: urgency, red flags, the differential with its evidence, and the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.notice import DEMONSTRATION, NOTICE
from antangel_cli.clinic.rules import rules_status
from antangel_cli.clinic.writers.layout import NARROWEST, Style, printable, wrap
from antangel_cli.clinic.writers.words import VALUES, WORDS


@dataclass(frozen=True)
class Page:
    """A record on its way to paper: its parts in one language and one style."""

    record: dict[str, Any] = field(repr=False)
    style: Style
    chinese: bool

    def word(self, key: str, **about: str) -> str:
        """A word of the page."""
        return WORDS[key][self.chinese].format(**about) if about else WORDS[key][self.chinese]

    def value(self, key: str) -> str:
        """A label such as `very_likely`, in words."""
        return VALUES[key][self.chinese] if key in VALUES else key

    def fact(self, fact_id: str) -> str:
        """A fact as evidence quotes it: `"troponin I 850 ng/L high" (F12)`."""
        text = next((f["text"] for f in self.record["facts"] if f["id"] == fact_id), None)
        if text is None:
            return fact_id
        return f"“{text}”（{fact_id}）" if self.chinese and not self.style.plain else f'"{text}" ({fact_id})'

    def labelled(self, label: str, text: str, indent: int = 0) -> list[str]:
        """`label: text`, wrapped beneath its own beginning."""
        first = " " * indent + f"{label}{self.colon}"
        return wrap(text, self.style, first, " " * (indent + 2))

    def item(self, text: str, indent: int = 0) -> list[str]:
        """One item of a list."""
        return wrap(text, self.style, " " * indent + self.style.bullet)

    @property
    def colon(self) -> str:
        """What stands between a label and its text."""
        return ": " if self.style.plain or not self.chinese else "："


def write_page(record: dict[str, Any], case: Case, plain: bool, width: int, lang: str | None) -> str:
    """The page of a record, its lines at most `width` columns wide (never below 40)."""
    chinese = (lang or case.language).lower().startswith("zh")
    page = Page(record, Style(max(width, NARROWEST), plain), chinese)
    return "\n".join(line for section in SECTIONS for line in section(page)) + "\n"


def _header(page: Page) -> Iterator[str]:
    record, made = page.record, page.record["provenance"]
    language = "zh" if page.chinese else "en"
    demonstration = made["model"]["demonstration"]
    if demonstration:
        yield from wrap(DEMONSTRATION[language], page.style)
    yield from page.labelled(page.word("case"), record["id"])
    yield from page.labelled(page.word("time"), record["created"])
    name = printable(str(made["model"]["name"]))
    yield from page.labelled(page.word("model"), f"{name} ({page.value('demonstration')})" if demonstration else name)
    if record["degraded"]:
        yield from page.labelled(page.word("degraded"), _list(page, map(page.value, record["degraded"])))
    yield from wrap(NOTICE[language], page.style)
    yield from wrap(rules_status(chinese=page.chinese), page.style)
    yield page.style.rule()


def _urgency(page: Page) -> Iterator[str]:
    yield from page.labelled(page.word("urgency"), page.value(page.record["urgency_final"]))
    result, floor = page.record["result"], page.record["checks"]["urgency_floor"]
    about = {
        "floor": page.value(floor) if floor else "",
        "model": page.value(result["urgency"]) if result else "",
    }
    key = ("model_says" if floor else "model_only") if result else ("floor_only" if floor else "nothing")
    yield from wrap(page.word(key, **about), page.style, "  ")
    if result and result["urgency_reason"]:
        yield from page.labelled(page.word("reason"), result["urgency_reason"], 2)
    yield from _news2(page)


def _news2(page: Page) -> Iterator[str]:
    score = page.record["checks"]["news2"]
    if score is None:
        return
    band = f" ({page.value(score['band'])})" if score["band"] else ""
    least = page.word("at_least") if score["partial"] else ""
    lacking = (
        f"; {page.word('lacking', names=_list(page, map(page.value, score['missing'])))}" if score["missing"] else ""
    )
    yield from wrap(page.word("news2", least=least, score=str(score["score"]), band=band) + lacking, page.style, "  ")


def _red_flags(page: Page) -> Iterator[str]:
    yield from page.style.heading(page.word("red_flags"))
    by_rule, result = page.record["checks"]["rule_red_flags"], page.record["result"]
    for flag in by_rule:
        yield from page.item(f"{flag['concern']} [{page.word('by_rule')}]: {_facts(page, flag['fact_ids'])}")
    for flag in result["red_flags"] if result else ():
        text = f"{flag['finding']}: {flag['concern']} [{page.word('by_model')}]"
        yield from page.item(f"{text}: {_facts(page, flag['fact_ids'])}")
    if not by_rule and not (result and result["red_flags"]):
        yield from page.item(page.word("no_red_flags" if result else "no_rule_flags"))


def _answer(page: Page) -> Iterator[str]:
    result, error = page.record["result"], page.record["error"]
    if result is None:
        yield from page.style.heading(page.word("no_answer"))
        if error:
            yield from page.item(f"{page.value(error['code'])} ({error['code']})")
        return
    yield from page.style.heading(page.word("summary"))
    yield from wrap(result["summary"], page.style)
    yield from page.style.heading(page.word("differential"))
    for rank, diagnosis in enumerate(result["differential"], 1):
        yield from _diagnosis(page, rank, diagnosis)


def _diagnosis(page: Page, rank: int, diagnosis: dict[str, Any]) -> Iterator[str]:
    grave = f" [{page.word('cant_miss')}]" if diagnosis["cant_miss"] else ""
    yield from wrap(f"{diagnosis['name']} - {page.value(diagnosis['likelihood'])}{grave}", page.style, f"{rank}. ")
    for label, key in (("for", "supporting"), ("against", "contradicting")):
        for evidence in diagnosis[key]:
            why = f": {evidence['why']}" if evidence["why"] else ""
            yield from page.labelled(page.word(label), page.fact(evidence["fact_id"]) + why, 3)
    if diagnosis["missing"]:
        yield from page.labelled(page.word("lacks"), _list(page, diagnosis["missing"]), 3)
    if diagnosis["discriminating_test"]:
        yield from page.labelled(page.word("decides"), diagnosis["discriminating_test"], 3)
    if diagnosis["codes"]:
        yield from page.labelled(page.word("codes"), _list(page, diagnosis["codes"]), 3)


def _next_steps(page: Page) -> Iterator[str]:
    if not page.record["result"]:
        return
    yield from page.style.heading(page.word("next_steps"))
    for step in page.record["result"]["next_steps"]:
        rationale = f" - {step['rationale']}" if step["rationale"] else ""
        yield from page.item(f"{page.value(step['timing'])}: {step['action']} ({page.value(step['kind'])}){rationale}")


def _missing(page: Page) -> Iterator[str]:
    result = page.record["result"]
    if not result:
        return
    if result["missing_information"]:
        yield from page.style.heading(page.word("missing"))
        for text in result["missing_information"]:
            yield from page.item(text)
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


def _section(page: Page, heading: str, texts: list[str]) -> Iterator[str]:
    if texts:
        yield from page.style.heading(page.word(heading))
        for text in texts:
            yield from page.item(text)


def _texts(entry: dict[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in entry.items()}


def _facts(page: Page, fact_ids: Iterable[str]) -> str:
    return _list(page, map(page.fact, fact_ids))


def _list(page: Page, texts: Iterable[str]) -> str:
    return ("、" if page.chinese and not page.style.plain else ", ").join(texts)


SECTIONS: tuple[Callable[[Page], Iterator[str]], ...] = (
    _header,
    _urgency,
    _red_flags,
    _answer,
    _next_steps,
    _missing,
    _remarks,
)
