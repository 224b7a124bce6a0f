"""How often checks that read text fire: `python -m bench.firing`.

Cases of the demonstration model's world, in English and Chinese, and each one's negated twin: the same patient with
everything that was present denied, and what was measured or imaged normal. Red-flag rules are counted by rule and by
the urgency of the condition that the case was drawn from; injection patterns by pattern. None of the cases holds an
instruction, so that every injection pattern that fires is wrong; whatever fires on a twin is a denial that was missed.
Writes bench/results/firing.json, of which `python docs/rules.py` makes tables.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console
from rich.progress import track

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.checks.injection import hits, patterns
from antangel_cli.clinic.checks.plausibility import set_aside, usable_facts
from antangel_cli.clinic.checks.red_flags import own_rules, red_flags
from antangel_cli.clinic.checks.units import measure
from antangel_cli.clinic.checks.urgency import ORDER
from antangel_cli.clinic.facts import facts
from antangel_cli.clinic.rules import rules_provenance
from bench.place import RESULTS
from nano.corpus import CaseWriter
from nano.world import Patient, Sign, World, load_world

RESULT = RESULTS / "firing.json"
STYLES, WEIGHTS = ("structured", "narrative", "terse"), (0.45, 0.3, 0.25)
"""How cases are written, and how often, as in the training text."""


@dataclass
class Count:
    """What fired over some cases."""

    cases: int = 0
    flagged: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    urgencies: Counter[str] = field(default_factory=Counter)
    patterns: Counter[str] = field(default_factory=Counter)
    suspected: int = 0

    def add(self, case: Case) -> None:
        """Count one case."""
        rows = facts(case)
        read = measure(case)
        rows = usable_facts(rows, set_aside(read.values))
        fired = red_flags(case, rows, read.values)
        injected = {hit.pattern.id for hit in hits(rows, case.question)}
        self.cases += 1
        self.flagged += bool(fired)
        self.suspected += bool(injected)
        self.rules.update({hit.rule.id for hit in fired})
        self.patterns.update(injected)
        self.urgencies[max((hit.rule.urgency for hit in fired), key=ORDER.index, default="none")] += 1

    def to_json(self) -> dict[str, Any]:
        """As the result file carries it: shares of the cases."""
        return {
            "cases": self.cases,
            "flagged": self._share(self.flagged),
            "highest": {name: self._share(n) for name, n in sorted(self.urgencies.items())},
            "injection": self._share(self.suspected),
        }

    def _share(self, number: int) -> float:
        return round(number / max(self.cases, 1), 5)


@dataclass
class Firing:
    """Counts of cases and of their negated twins, by the urgency of the condition drawn."""

    drawn: dict[str, Count] = field(default_factory=dict)
    denied: dict[str, Count] = field(default_factory=dict)

    def add(self, urgency: str, case: Case, twin: Case) -> None:
        """Count a case and its twin."""
        self.drawn.setdefault(urgency, Count()).add(case)
        self.denied.setdefault(urgency, Count()).add(twin)


def pairs(world: World, seeds: range) -> Iterator[tuple[str, Case, Case]]:
    """The gold urgency, a case and its negated twin, in each language, by seed."""
    for seed in seeds:
        for chinese in (False, True):
            rng = random.Random(f"firing-{seed}-{chinese}")
            patient = world.draw(rng)
            style = rng.choices(STYLES, WEIGHTS)[0]
            yield (
                patient.condition.urgency,
                *(
                    CaseWriter(world, one, random.Random(f"{seed}"), chinese, False).write(style)[0]
                    for one in (patient, denied(world, patient))
                ),
            )


def denied(world: World, patient: Patient) -> Patient:
    """The same patient with everything that was present, absent; a report that has no normal wording is left out."""
    stated = (*patient.present, *patient.absent)
    return replace(patient, present=(), absent=tuple(name for name in stated if _deniable(world.signs[name])))


def _deniable(sign: Sign) -> bool:
    return sign.kind in ("symptom", "sign", "history") or bool(sign.analyte or sign.normal_report)


def total(counts: dict[str, Count]) -> Count:
    """All urgencies together."""
    whole = Count()
    for count in counts.values():
        for name in ("cases", "flagged", "suspected"):
            setattr(whole, name, getattr(whole, name) + getattr(count, name))
        for name in ("rules", "urgencies", "patterns"):
            getattr(whole, name).update(getattr(count, name))
    return whole


def figures(found: Firing, seconds: float) -> dict[str, Any]:
    """The result file."""
    every, twins = total(found.drawn), total(found.denied)
    urgencies = [name for name in ORDER if name in found.drawn]
    return {
        "rules": rules_provenance()["version"],
        "python": sys.version.split()[0],
        "seconds": round(seconds, 1),
        "cases": {"all": every.to_json()} | {name: found.drawn[name].to_json() for name in urgencies},
        "denied": {"all": twins.to_json()} | {name: found.denied[name].to_json() for name in urgencies},
        "by_rule": {
            rule.id: {
                "family": rule.family,
                "urgency": rule.urgency,
                "fired": {name: found.drawn[name].rules[rule.id] for name in urgencies},
                "fired_denied": twins.rules[rule.id],
            }
            for rule in own_rules()
        },
        "by_pattern": {p.id: {"cases": every.patterns[p.id], "denied": twins.patterns[p.id]} for p in patterns()},
    }


def main() -> None:
    """Draw, count and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_500, help="patients drawn in each language")
    seeds = range(parser.parse_args().seeds)
    found, start = Firing(), time.monotonic()
    drawn = pairs(load_world(), seeds)
    for pair in track(drawn, "cases", total=2 * len(seeds), console=Console(stderr=True)):
        found.add(*pair)
    RESULT.write_text(json.dumps(figures(found, time.monotonic() - start), indent=1) + "\n", encoding="utf-8")
    print(json.dumps(json.loads(RESULT.read_text(encoding="utf-8"))["cases"]["all"]))


if __name__ == "__main__":
    main()
