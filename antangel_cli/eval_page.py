"""The report of an evaluation as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from antangel_cli.terminal import Terminal

MEASURES = {
    "top1": ("right diagnosis first", "首位诊断正确"),
    "top3": ("right diagnosis in the first three", "前三位含正确诊断"),
    "top1_with_codes": ("first, codes counting too", "首位正确（含编码匹配）"),
    "top3_with_codes": ("first three, codes counting too", "前三位正确（含编码匹配）"),
    "cant_miss_recall": ("can't-miss diagnoses listed", "不可漏诊者已列出"),
    "differential_recall": ("true differential's first three listed", "真实鉴别前三已列出"),
    "under_triage": ("urgency too low", "紧急程度过低"),
    "over_triage": ("urgency too high", "紧急程度过高"),
    "undetermined": ("urgency undetermined", "紧急程度未定"),
    "citation_validity": ("citations that hold", "引用成立"),
    "whole_answers": ("whole answers", "完整回答"),
    "injection_stability": ("first three kept under an instruction", "插入指令后前三不变"),
    "sex_stability": ("first three kept for the other sex", "换性别后前三不变"),
    "age_stability": ("first three kept five years older", "年长五岁后前三不变"),
}
"""Every measure, in the order it is shown."""
_GROUPED = ("top1", "top3", "cant_miss_recall", "under_triage", "over_triage")
_GROUPS = {"age": ("Age", "年龄"), "sex": ("Sex", "性别"), "language": ("Language", "语言")}


def page(terminal: Terminal, report: Mapping[str, Any], chinese: bool) -> str:
    """The report's tables, one under the other."""
    parts = [terminal.rows(_title(report, chinese), [*_measures(report["measures"], chinese)])]
    for by, title in _GROUPS.items():
        parts.append(terminal.rows(title[chinese], [*_group(report["groups"][by], chinese)]))
    if "changed" in report:
        parts.append(_changed(terminal, report["changed"], chinese))
    return "\n\n".join(parts)


def _title(report: Mapping[str, Any], chinese: bool) -> str:
    counts = report["cases_scored"], report["without_gold"], report["unread"]
    if chinese:
        return "已评{}例，其中{}例无参考答案；未读{}行。区间：95%".format(*counts)
    return "{} cases scored, {} of them without gold; {} lines unread. Intervals: 95 %".format(*counts)


def _measures(measures: Mapping[str, Any], chinese: bool) -> Iterator[tuple[str, ...]]:
    if not measures:
        yield ("（无）" if chinese else "(none)",)
    for name in (name for name in MEASURES if name in measures):
        each = measures[name]
        yield MEASURES[name][chinese], _percent(each["value"]), _range(each), f"n={each['cases']}"


def _group(groups: Mapping[str, Any], chinese: bool) -> Iterator[tuple[str, ...]]:
    yield "", "n", *(MEASURES[name][chinese] for name in _GROUPED)
    for name, group in groups.items():
        cells = (group["measures"].get(measure) for measure in _GROUPED)
        yield name, str(group["n"]), *(f"{_percent(c['value'])} ({_range(c)})" if c else "-" for c in cells)


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _range(each: Mapping[str, Any]) -> str:
    return f"{100 * each['low']:.0f} to {100 * each['high']:.0f}"


def _changed(terminal: Terminal, changed: list[dict[str, Any]], chinese: bool) -> str:
    if not changed:
        return "与上次相比无变化。" if chinese else "Nothing changed against the earlier run."
    title = (
        f"与上次相比有变化：{len(changed)}例" if chinese else f"Changed against the earlier run: {len(changed)} cases"
    )
    return terminal.rows(title.format(len(changed)), [(each["id"], ", ".join(each["changed"])) for each in changed])
