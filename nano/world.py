"""The made-up world the demonstration model learns: conditions, findings, and patients drawn from them.

Read from nano/knowledge/*.toml. The world is itself a naive-Bayes model: a condition is drawn by its prior, a patient
by the condition's odds for age and sex, each finding independently by its probability.
"""

from __future__ import annotations

import math
import random
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from antangel_cli.clinic.result import StepKind, Timing, Urgency

KNOWLEDGE = Path(__file__).parent / "knowledge"

BACKGROUND = 0.02
"""The chance of a finding in a condition that does not name it."""


@dataclass(frozen=True)
class Analyte:
    """What a vital or laboratory finding measures: names, unit, normal and abnormal range."""

    name: tuple[str, str]
    unit: str
    normal: tuple[float, float]
    abnormal: tuple[float, float]
    decimals: int


@dataclass(frozen=True)
class Sign:
    """A finding of the vocabulary: its phrases in (English, Chinese), the first of each canonical."""

    id: str
    kind: str
    phrases: tuple[tuple[str, ...], tuple[str, ...]]
    analyte: Analyte | None
    modality: tuple[str, str] | None
    normal_report: tuple[str, str] | None
    sex: str | None
    ages: tuple[float, float]

    def canonical(self, zh: bool) -> str:
        """The one phrase used in answers."""
        return self.phrases[zh][0]

    @property
    def measure(self) -> str:
        """What was measured: two findings of one analyte or one test cannot be reported apart."""
        return self.analyte.name[0] if self.analyte else self.modality[0] if self.modality else self.id

    def possible(self, age: float, sex: str) -> bool:
        """Whether someone of this age and sex can have it."""
        return (self.sex is None or self.sex == sex) and self.ages[0] <= age <= self.ages[1]


@dataclass(frozen=True)
class NextStep:
    """What is done next for a condition: text in (English, Chinese), kind and timing."""

    text: tuple[str, str]
    kind: StepKind
    timing: Timing


@dataclass(frozen=True)
class Condition:
    """A disease of the world."""

    id: str
    name: tuple[str, str]
    synonyms: tuple[tuple[str, ...], tuple[str, ...]]
    icd10: str
    specialty: str
    urgency: Urgency
    cant_miss: bool
    prior: float
    ages: tuple[tuple[float, float, float], ...]
    sex_odds: dict[str, float]
    findings: dict[str, float]
    negatives: tuple[str, ...]
    test: tuple[str, str]
    next_steps: tuple[NextStep, ...]
    mimics: tuple[str, ...]

    def age_odds(self, age: float) -> float:
        """The odds multiplier of an age in years."""
        return next((odds for low, high, odds in reversed(self.ages) if age >= low), 0.0)

    def probability(self, finding: str) -> float:
        """The chance that a patient with this condition has the finding."""
        return min(max(self.findings.get(finding, BACKGROUND), 0.005), 0.97)


@dataclass(frozen=True)
class Patient:
    """Someone with a condition: what was recorded present and absent."""

    condition: Condition
    age: float
    sex: str
    present: tuple[str, ...]
    absent: tuple[str, ...]


class World:
    """All conditions and findings, with sampling and the exact posterior."""

    def __init__(self, signs: dict[str, Sign], conditions: dict[str, Condition]) -> None:
        self.signs = signs
        self.conditions = conditions

    @cached_property
    def ordered(self) -> tuple[Condition, ...]:
        """The conditions, by id."""
        return tuple(self.conditions[name] for name in sorted(self.conditions))

    @cached_property
    def laboratory(self) -> tuple[str, ...]:
        """The ids of the laboratory findings: any of them may have been measured and found normal."""
        return tuple(s.id for s in self.signs.values() if s.kind == "lab")

    def draw(self, rng: random.Random) -> Patient:
        """Draw a patient; priors are flattened to their square root so that rare conditions are seen too."""
        while True:
            condition = rng.choices(self.ordered, [math.sqrt(c.prior) for c in self.ordered])[0]
            age, sex = _age(rng, condition), _sex(rng, condition)
            present = [
                f for f, p in condition.findings.items() if rng.random() < p and self.signs[f].possible(age, sex)
            ]
            recorded = [f for f in present if rng.random() < 0.9]
            if len(recorded) >= 4:
                kept = self._noise(rng, condition, recorded, age, sex)
                absent = self._absent(rng, condition, {*present, *kept}, age, sex)
                return Patient(condition, age, sex, kept, absent)

    def posterior(self, age: float, sex: str, present: tuple[str, ...], absent: tuple[str, ...]) -> dict[str, float]:
        """P(condition | what was recorded): the naive-Bayes baseline, exact for this world up to what is recorded."""
        scores = {c.id: self._log_joint(c, age, sex, present, absent) for c in self.ordered}
        top = max(scores.values())
        weights = {name: math.exp(score - top) for name, score in scores.items()}
        total = sum(weights.values())
        return {name: weight / total for name, weight in sorted(weights.items(), key=lambda kv: -kv[1])}

    def _log_joint(
        self, c: Condition, age: float, sex: str, present: tuple[str, ...], absent: tuple[str, ...]
    ) -> float:
        odds = math.sqrt(c.prior) * max(c.age_odds(age) / _mean_odds(c), 1e-4) * max(c.sex_odds.get(sex, 1.0), 1e-4)
        score = math.log(odds) + sum(math.log(c.probability(f)) for f in present)
        return score + sum(math.log(1 - c.probability(f)) for f in absent)

    def _noise(
        self, rng: random.Random, condition: Condition, recorded: list[str], age: float, sex: str
    ) -> tuple[str, ...]:
        """Add up to two findings that have nothing to do with the condition."""
        pool = [
            s.id for s in self.signs.values() if s.kind in ("symptom", "history") and s.id not in condition.findings
        ]
        extra = [rng.choice(pool) for _ in range(rng.choices((0, 1, 2), (0.5, 0.35, 0.15))[0])]
        kept = recorded + [f for f in extra if self.signs[f].possible(age, sex)]
        rng.shuffle(kept)
        return tuple(dict.fromkeys(kept))[:12]

    def _absent(
        self, rng: random.Random, condition: Condition, present: set[str], age: float, sex: str
    ) -> tuple[str, ...]:
        """What was asked and denied: the condition's telling negatives, and what its mimics would have shown."""
        asked = [f for f in condition.negatives if rng.random() < 0.7]
        for mimic in condition.mimics:
            strong = [f for f, p in self.conditions[mimic].findings.items() if p >= 0.7 and f not in condition.findings]
            asked += [f for f in strong if rng.random() < 0.25]
        asked = asked[:4] + [rng.choice(self.laboratory) for _ in range(rng.choices((0, 1, 2), (0.6, 0.25, 0.15))[0])]
        measured = {self.signs[f].measure for f in present}
        kept = [
            f
            for f in dict.fromkeys(asked)
            if f not in present and self.signs[f].possible(age, sex) and self.signs[f].measure not in measured
        ]
        return tuple(kept)


def load_world(folder: Path = KNOWLEDGE) -> World:
    """Read every TOML file of the folder.

    Raises:
        ValueError: a condition names a finding or a mimic that no file defines.
    """
    documents = [tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.toml"))]
    tables = [d for d in documents if "condition" not in d] + [d.get("finding", {}) for d in documents]
    signs = {name: _sign(name, t) for table in tables for name, t in table.items()}
    conditions = {c["id"]: _condition(c) for d in documents for c in d.get("condition", [])}
    for condition in conditions.values():
        unknown = {*condition.findings, *condition.negatives} - signs.keys()
        unknown |= set(condition.mimics) - conditions.keys()
        if unknown:
            raise ValueError(f"{condition.id}: unknown finding or condition {sorted(unknown)}")
    return World(signs, conditions)


def _sign(name: str, t: dict[str, Any]) -> Sign:
    analyte = None
    if "abnormal" in t:
        analyte = Analyte(
            (t["name_en"], t["name_zh"]), t["unit"], tuple(t["normal"]), tuple(t["abnormal"]), t["decimals"]
        )
    modality = (t["modality_en"], t["modality_zh"]) if "modality_en" in t else None
    normal = (t["normal_en"], t["normal_zh"]) if "normal_en" in t else None
    ages = (t.get("min_age", 0), t.get("max_age", 120))
    return Sign(name, t["kind"], (tuple(t["en"]), tuple(t["zh"])), analyte, modality, normal, t.get("sex"), ages)


def _condition(c: dict[str, Any]) -> Condition:
    return Condition(
        c["id"],
        (c["name_en"], c["name_zh"]),
        (tuple(c["synonyms_en"]), tuple(c["synonyms_zh"])),
        c["icd10"],
        c["specialty"],
        c["urgency"],
        c["cant_miss"],
        c["prior"],
        tuple(tuple(band) for band in c["age"]),
        {"female": c["female"], "male": c["male"]},
        c["findings"],
        tuple(c["negatives"]),
        (c["test_en"], c["test_zh"]),
        tuple(NextStep((n["en"], n["zh"]), n["kind"], n["timing"]) for n in c["next"]),
        tuple(c["mimics"]),
    )


def _mean_odds(c: Condition) -> float:
    return sum(max(high - low, 0.25) * odds for low, high, odds in c.ages) / 110 or 1e-4


def _age(rng: random.Random, c: Condition) -> float:
    low, high, _ = rng.choices(c.ages, [max(hi - lo, 0.25) * odds for lo, hi, odds in c.ages])[0]
    age = rng.uniform(low, min(high, 95))
    return round(age, 2) if age < 2 else float(int(age))


def _sex(rng: random.Random, c: Condition) -> str:
    return rng.choices(("female", "male"), (c.sex_odds["female"], c.sex_odds["male"]))[0]
