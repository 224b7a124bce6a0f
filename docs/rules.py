"""Writes the tables of docs/rules.md, docs/injection.md and docs/drugs.md from the rules: `python docs/rules.py`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from antangel_cli.clinic.checks.drugs.names import TABLES
from antangel_cli.clinic.checks.injection import patterns
from antangel_cli.clinic.checks.red_flags import Rule, own_rules
from antangel_cli.clinic.checks.urgency import ORDER
from antangel_cli.clinic.rules import load_rules, signed_by
from bench.marks import filled

DOCS = Path(__file__).parent
FIRING = DOCS.parent / "bench" / "results" / "firing.json"
PAGES = ("rules.md", "injection.md", "drugs.md")


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    heads = [*head]
    lines = [heads, ["---"] * len(heads), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def families() -> str:
    """How many rules each family has, by urgency, and how many of them a clinician signed."""
    rows = own_rules()
    names = dict.fromkeys(rule.family for rule in rows)
    return _table(
        ("family", "rules", "emergency", "urgent", "soon", "signed by a reviewer"),
        [
            *(_family(name, [rule for rule in rows if rule.family == name]) for name in names),
            _family("**all**", rows),
        ],
    )


def _family(name: str, rules: Iterable[Rule]) -> Iterator[object]:
    kept = [*rules]
    urgencies = Counter(rule.urgency for rule in kept)
    signed = sum(_signed(rule) for rule in kept)
    return iter((name, len(kept), *(urgencies[level] for level in ("emergency", "urgent", "soon")), signed))


def _signed(rule: Rule) -> bool:
    file = load_rules(f"red_flags/{rule.family}")
    row = next(row for row in file["rule"] if row["id"] == rule.id)
    about = {key: file[key] for key in ("reviewed", "reviewer", "reviewed_on") if key in file}
    return signed_by({**about, **row}) is not None


def firing(found: dict[str, Any]) -> str:
    """How many of the cases drawn for each urgency fire a rule, and of their denied twins."""
    cases, denied = found["cases"], found["denied"]
    return _table(
        ("condition drawn is", "cases", "some rule", "an emergency rule", "denied twins: some rule"),
        (
            (
                name,
                f"{row['cases']:,}",
                f"{row['flagged']:.1%}",
                f"{row['highest'].get('emergency', 0):.1%}",
                f"{denied[name]['flagged']:.2%}",
            )
            for name, row in _most_urgent_first(cases)
        ),
    )


def _most_urgent_first(cases: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from ((name, cases[name]) for name in reversed(ORDER) if name in cases)
    yield "all", cases["all"]


def loudest(found: dict[str, Any]) -> str:
    """The rules that fire most often on cases whose condition is neither urgent nor an emergency."""
    quiet = ("self_care", "routine", "soon")
    whole = sum(found["cases"][name]["cases"] for name in quiet if name in found["cases"])
    counts = {name: sum(row["fired"].get(urgency, 0) for urgency in quiet) for name, row in found["by_rule"].items()}
    rows = sorted(((count, name) for name, count in counts.items() if count), reverse=True)[:8]
    return _table(("rule", "urgency", "of cases not urgent"), (
        (f"`{name}`", found["by_rule"][name]["urgency"], f"{count / whole:.2%}") for count, name in rows
    ))  # fmt: skip


def injection(found: dict[str, Any]) -> str:
    """The patterns by kind, and how often any of the kind fired where nothing is an instruction."""
    cases = found["cases"]["all"]["cases"] + found["denied"]["all"]["cases"]
    kinds = dict.fromkeys(pattern.kind for pattern in patterns())
    return _table(
        ("kind", "patterns", f"fired on {cases:,} cases"),
        ((kind, _names(kind), sum(_fired(found, p.id) for p in patterns() if p.kind == kind)) for kind in kinds),
    )


def _names(kind: str) -> str:
    return ", ".join(f"`{pattern.id}`" for pattern in patterns() if pattern.kind == kind)


def _fired(found: dict[str, Any], name: str) -> int:
    return sum(found["by_pattern"].get(name, {}).values())


def tables_of_drugs() -> str:
    """How many entries each table of drugs has."""
    counts = [(f"drugs/{name}.toml", "ingredients", len(load_rules(f"drugs/{name}")["ingredients"])) for name in TABLES]
    counts += [
        ("drugs/combinations.toml", "combined products", len(load_rules("drugs/combinations")["combinations"])),
        ("drugs/classes.toml", "classes and substances of allergy", len(load_rules("drugs/classes")["classes"])),
        ("drugs/pregnancy.toml", "rules of pregnancy", len(load_rules("drugs/pregnancy")["rule"])),
    ]
    return _table(("file", "holds", "entries"), counts)


def tables() -> dict[str, str]:
    """Each table by the name of its marks."""
    found = json.loads(FIRING.read_text(encoding="utf-8"))
    return {
        "families": families(),
        "firing": firing(found),
        "loudest": loudest(found),
        "patterns": injection(found),
        "drugs": tables_of_drugs(),
    }


def page(text: str) -> str:
    """The page with its tables as they are now."""
    return filled(text, tables())


if __name__ == "__main__":
    for name in PAGES:
        place = DOCS / name
        place.write_text(page(place.read_text(encoding="utf-8")), encoding="utf-8")
