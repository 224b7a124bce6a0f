"""Training text: cases written many ways, with the reasoning and the answer `diagnose` expects; and questions for `ask`.

Everything is deterministic by seed. Cases are sent through `antangel_cli.clinic`, so the text trained on is the text
that is sent. Held-out cases use other seeds and sentence frames that training never sees.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from antangel_cli.clinic.case import Case
from antangel_cli.clinic.facts import facts
from antangel_cli.clinic.prompt import case_message, load_prompt
from antangel_cli.clinic.result import (
    Confidence,
    Diagnosis,
    Differential,
    Evidence,
    Likelihood,
    RedFlag,
    Step,
    Urgency,
    answer_text,
)
from nano.world import Condition, Patient, Sign, World

Pair = tuple[str, str]
"""A text in (English, Chinese)."""

FRAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # The last frame of each list is held out: training never uses it.
    "open": (
        (
            "{who} with {a} for {dur}.",
            "{who} presents with {a}, {dur}.",
            "{who}, {a} since {dur} ago.",
            "{who} came because of {a} over {dur}.",
        ),
        (
            "{who}，{a}{dur}。",
            "{who}，因{a}{dur}就诊。",
            "{who}，{dur}前出现{a}。",
            "{who}，近{dur}来有{a}。",
        ),
    ),
    "also": (
        ("Also {a}.", "There is {a}.", "Reports {a}.", "Mentions {a} as well."),
        ("伴{a}。", "有{a}。", "同时出现{a}。", "另诉{a}。"),
    ),
    "history": (
        ("History of {a}.", "Past history: {a}.", "Background of {a}.", "Known for {a}."),
        ("既往{a}。", "病史：{a}。", "有{a}史。", "背景：{a}。"),
    ),
    "absent": (
        ("No {a}.", "Denies {a}.", "There is no {a}.", "Without {a}."),
        ("无{a}。", "否认{a}。", "没有{a}。", "未见{a}。"),
    ),
    "measured": (
        ("Tests: {a}.", "{a}.", "Results: {a}.", "Found: {a}."),
        ("检查：{a}。", "{a}。", "结果：{a}。", "测得：{a}。"),
    ),
    "complaint": (
        ("{a} for {dur}", "{a}, {dur}", "{dur} of {a}", "{a} over {dur}"),
        ("{a}{dur}", "{a}，{dur}", "{dur}{a}", "{a}已{dur}"),
    ),
}
_DURATIONS: dict[bool, tuple[tuple[str, ...], tuple[str, ...]]] = {
    True: (("2 hours", "6 hours", "a day", "2 days", "3 days"), ("2小时", "6小时", "1天", "2天", "3天")),
    False: (("5 days", "2 weeks", "a month", "3 months"), ("5天", "2周", "1个月", "3个月")),
}
_VITAL_NAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "temperature": (("temperature",), ("体温",)),
    "pulse": (("pulse", "heart rate"), ("脉搏", "心率")),
    "respiratory_rate": (("respiratory rate",), ("呼吸",)),
    "systolic_bp": (("systolic BP", "systolic blood pressure"), ("收缩压",)),
    "spo2": (("SpO2", "oxygen saturation"), ("血氧饱和度", "SpO2")),
}
_ADULT_VITALS: dict[str, tuple[float, float, str, int]] = {
    "temperature": (36.3, 37.2, "°C", 1),
    "pulse": (62, 92, "/min", 0),
    "respiratory_rate": (12, 18, "/min", 0),
    "systolic_bp": (112, 136, "mmHg", 0),
    "spo2": (96, 99, "%", 0),
}
_ASIDES: dict[str, tuple[tuple[dict[str, object], ...], tuple[dict[str, object], ...]]] = {
    # What stands in real cases and says nothing about the diagnosis.
    "medications": (
        (
            {"text": "amlodipine"},
            {"text": "atorvastatin"},
            {"text": "metformin"},
            {"text": "paracetamol"},
            {"text": "omeprazole"},
            {"text": "cetirizine"},
        ),
        (
            {"text": "氨氯地平"},
            {"text": "阿托伐他汀"},
            {"text": "二甲双胍"},
            {"text": "对乙酰氨基酚"},
            {"text": "奥美拉唑"},
            {"text": "西替利嗪"},
        ),
    ),
    "social": (
        ({"text": "lives alone"}, {"text": "works in an office"}, {"text": "retired"}),
        ({"text": "独居"}, {"text": "办公室工作"}, {"text": "退休"}),
    ),
    "allergies": (
        ({"substance": "penicillin", "reaction": "rash"}, {"substance": "peanut"}),
        ({"substance": "青霉素", "reaction": "皮疹"}, {"substance": "花生"}),
    ),
    "vitals": (
        (
            {"name": "consciousness", "value": "alert"},
            {"name": "diastolic BP", "value": 78.0, "unit": "mmHg"},
            {"name": "supplemental_oxygen", "value": "no"},
        ),
        (
            {"name": "意识", "value": "清醒"},
            {"name": "舒张压", "value": 78.0, "unit": "mmHg"},
            {"name": "吸氧", "value": "否"},
        ),
    ),
}
_SEVERITIES: tuple[tuple[str, ...], tuple[str, ...]] = (
    ("severe", "mild", "worsening"),
    ("剧烈", "轻度", "加重"),
)
URGENCY_ORDER = ("self_care", "routine", "soon", "urgent", "emergency")
_URGENCY_ZH = {
    "emergency": "急危",
    "urgent": "紧急",
    "soon": "尽快",
    "routine": "常规",
    "self_care": "自我照护",
}


@dataclass(frozen=True)
class Mention:
    """What one place of a case says: which findings it states as present or absent."""

    path: str
    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """One conversation to learn: what is sent, and what is expected back. `answer` is "" for plain replies."""

    zh: bool
    user: str
    reply: str
    answer: str = ""
    patient: Patient | None = None
    case: Case | None = None

    @property
    def system(self) -> str:
        """The system text that is sent with it."""
        return load_prompt("diagnose", self.zh).system


class CaseWriter:
    """Writes one patient as an `antangel.case/1`, in one of three styles, remembering what each place states."""

    def __init__(self, world: World, patient: Patient, rng: random.Random, zh: bool, held_out: bool) -> None:
        self.world, self.patient, self.rng, self.zh, self.held_out = world, patient, rng, zh, held_out
        self.mentions: list[Mention] = []
        self.case: dict[str, Any] = {"schema": "antangel.case/1", "id": "x", "language": "zh" if zh else "en"}
        self.narrative: list[tuple[str, Mention]] = []

    def write(self, style: str) -> tuple[Case, list[Mention]]:
        """Style: `structured` (every field), `narrative` (prose) or `terse` (a complaint and short lists)."""
        groups = self._groups()
        getattr(self, f"_{style}")(groups)
        self._asides()
        if self.narrative:
            self.case["narrative"] = ("" if self.zh else " ").join(text for text, _ in self.narrative)
            self.mentions += [m for _, m in self.narrative]
        return Case.model_validate({k: _tuples(v) for k, v in self.case.items()}), self.mentions

    def _asides(self) -> None:
        """Add now and then what says nothing about the diagnosis, after everything that does."""
        for name, rows in _ASIDES.items():
            if self.rng.random() < 0.25 and (name != "social" or self.patient.age >= 30):
                self.case.setdefault(name, []).append(self.rng.choice(rows[self.zh]))
        if "allergies" not in self.case and self.rng.random() < 0.3:
            self.case["no_known_allergies"] = True
        for row in self.case.get("findings", []):
            if row["status"] == "present" and self.rng.random() < 0.15:
                row["severity"] = self.rng.choice(_SEVERITIES[self.zh])
            if row["status"] == "present" and self.rng.random() < 0.15:
                row["duration"] = self._duration()

    def _groups(self) -> dict[str, list[Sign]]:
        groups: dict[str, list[Sign]] = {k: [] for k in ("symptom", "sign", "history", "vital", "lab", "imaging")}
        for name in self.patient.present:
            groups[self.world.signs[name].kind].append(self.world.signs[name])
        return groups

    def _structured(self, groups: dict[str, list[Sign]]) -> None:
        self._demographics()
        spoken = groups["symptom"] + groups["sign"]
        lead = spoken[:1] or groups["history"][:1]
        self._complaint(lead)
        rows = [(s, "present") for s in spoken if s not in lead] + [
            (s, "absent") for s in self._absent("symptom", "sign")
        ]
        self.case["findings"] = [{"text": self._phrase(s), "status": status} for s, status in rows]
        self.mentions += [self._mention(f"findings[{i}]", s, status) for i, (s, status) in enumerate(rows)]
        self._history(
            [(s, "present") for s in groups["history"] if s not in lead]
            + [(s, "absent") for s in self._absent("history")]
        )
        self._vitals(groups["vital"])
        self._labs(groups["lab"])
        self._imaging(groups["imaging"])

    def _narrative(self, groups: dict[str, list[Sign]]) -> None:
        if self.rng.random() < 0.6:
            self._demographics()
        spoken = groups["symptom"] + groups["sign"]
        self._sentence("open", spoken[:2], who=self._who())
        for i in range(2, len(spoken), 2):
            self._sentence("also", spoken[i : i + 2])
        if groups["history"]:
            self._sentence("history", groups["history"])
        absent = self._absent("symptom", "sign", "history")
        for i in range(0, len(absent), 2):
            self._sentence("absent", absent[i : i + 2], present=False)
        self._measurements(groups)

    def _terse(self, groups: dict[str, list[Sign]]) -> None:
        self._demographics()
        spoken = groups["symptom"] + groups["sign"]
        self._complaint(spoken[:3] or groups["history"][:1])
        for i in range(3, len(spoken), 3):
            self._sentence("also", spoken[i : i + 3])
        if groups["history"] and spoken:
            self._history([(s, "present") for s in groups["history"]])
        for sign in self._absent("symptom", "sign", "history"):
            self._sentence("absent", [sign], present=False)
        self._measurements(groups)

    def _measurements(self, groups: dict[str, list[Sign]]) -> None:
        if self.rng.random() < 0.5:
            self._vitals(groups["vital"])
            self._labs(groups["lab"])
            self._imaging(groups["imaging"])
            return
        for sign in groups["vital"] + groups["lab"] + groups["imaging"] + self._absent("lab", "vital", "imaging"):
            text = self._reported(sign, sign.id in self.patient.present)
            mention = self._mention("", sign, "present" if sign.id in self.patient.present else "absent")
            self._say(self._frame("measured").format(a=text), mention)

    def _demographics(self) -> None:
        age = self.patient.age
        value, unit = (float(max(round(age * 12), 1)), "mo") if age < 2 else (age, "a")
        self.case["patient"] = {"age": {"value": value, "unit": unit}, "sex_at_birth": self.patient.sex}

    def _who(self) -> str:
        age, male = self.patient.age, self.patient.sex == "male"
        months = max(round(age * 12), 1)
        if self.zh:
            return (
                (f"{months}个月" if age < 2 else f"{int(age)}岁")
                + ("男" if male else "女")
                + ("性" if age >= 14 else "童")
            )
        noun = ("man" if male else "woman") if age >= 16 else ("boy" if male else "girl")
        return f"A {months}-month-old {noun}" if age < 2 else f"A {int(age)}-year-old {noun}"

    def _frame(self, name: str) -> str:
        frames = FRAMES[name][self.zh]
        return frames[-1] if self.held_out else self.rng.choice(frames[:-1])

    def _phrase(self, sign: Sign) -> str:
        return self.rng.choice(sign.phrases[self.zh])

    def _list(self, signs: list[Sign], word: Pair = ("and", "和")) -> str:
        phrases = [self._phrase(s) for s in signs]
        if len(phrases) < 2:
            return phrases[0] if phrases else ("不适" if self.zh else "feeling unwell")
        joint = word[1] if self.zh else f" {word[0]} "
        return ("、" if self.zh else ", ").join(phrases[:-1]) + joint + phrases[-1]

    def _duration(self) -> str:
        acute = self.patient.condition.urgency in ("emergency", "urgent")
        return self.rng.choice(_DURATIONS[acute][self.zh])

    def _absent(self, *kinds: str) -> list[Sign]:
        return [self.world.signs[n] for n in self.patient.absent if self.world.signs[n].kind in kinds]

    def _mention(self, path: str, sign: Sign, status: str) -> Mention:
        return Mention(path, (sign.id,), ()) if status == "present" else Mention(path, (), (sign.id,))

    def _say(self, text: str, mention: Mention) -> None:
        path = f"narrative#{len(self.narrative)}"
        text = text if self.zh else text[0].upper() + text[1:]
        self.narrative.append((text, Mention(path, mention.present, mention.absent)))

    def _sentence(self, frame: str, signs: list[Sign], who: str = "", present: bool = True) -> None:
        a = self._list(signs, ("and", "和") if present else ("or", "或"))
        ids = tuple(s.id for s in signs)
        text = self._frame(frame).format(a=a, dur=self._duration(), who=who)
        self._say(text, Mention("", ids, ()) if present else Mention("", (), ids))

    def _complaint(self, signs: list[Sign]) -> None:
        self.case["chief_complaint"] = self._frame("complaint").format(a=self._list(signs), dur=self._duration())
        self.mentions.append(Mention("chief_complaint#0", tuple(s.id for s in signs)))

    def _history(self, rows: list[tuple[Sign, str]]) -> None:
        self.case["history"] = [{"text": self._phrase(s), "status": status} for s, status in rows]
        self.mentions += [self._mention(f"history[{i}]", s, status) for i, (s, status) in enumerate(rows)]

    def _vitals(self, abnormal: list[Sign]) -> None:
        """All five vitals for adults, those in question for children, whose normal ranges differ."""
        by_name = {s.analyte.name[0]: s for s in abnormal if s.analyte}
        denied = {s.analyte.name[0]: s for s in self._absent("vital") if s.analyte}
        names = [
            n
            for n in _ADULT_VITALS
            if n in by_name or (self.patient.age >= 16 and self.rng.random() < 0.8) or n in denied
        ]
        self.case["vitals"] = []
        for i, name in enumerate(names):
            sign = by_name.get(name)
            low, high, unit, decimals = _ADULT_VITALS[name]
            if sign and sign.analyte:
                (low, high), unit, decimals = sign.analyte.abnormal, sign.analyte.unit, sign.analyte.decimals
            self.case["vitals"].append(
                {
                    "name": self.rng.choice(_VITAL_NAMES[name][self.zh]),
                    "value": self._value(low, high, decimals),
                    "unit": unit,
                }
            )
            self.mentions.append(
                Mention(
                    f"vitals[{i}]",
                    (sign.id,) if sign else (),
                    (denied[name].id,) if name in denied and not sign else (),
                )
            )

    def _labs(self, abnormal: list[Sign]) -> None:
        rows = [(s, True) for s in abnormal] + [(s, False) for s in self._absent("lab")]
        self.case["labs"] = []
        for i, (sign, present) in enumerate(rows):
            a = sign.analyte
            assert a is not None
            low, high = a.abnormal if present else a.normal
            row = {"name": a.name[self.zh], "value": self._value(low, high, a.decimals), "unit": a.unit}
            self.case["labs"].append(row | {"ref_low": float(a.normal[0]), "ref_high": float(a.normal[1])})
            self.mentions.append(self._mention(f"labs[{i}]", sign, "present" if present else "absent"))

    def _imaging(self, abnormal: list[Sign]) -> None:
        signs = abnormal + self._absent("imaging")
        self.case["imaging"] = []
        for i, sign in enumerate(signs):
            present = sign.id in self.patient.present
            self.case["imaging"].append(
                {
                    "text": self._report(sign, present),
                    "name": sign.modality[self.zh] if sign.modality else None,
                }
            )
            self.mentions.append(self._mention(f"imaging[{i}].text#0", sign, "present" if present else "absent"))

    def _report(self, sign: Sign, present: bool) -> str:
        if present or not sign.normal_report:
            return self._phrase(sign)
        return sign.normal_report[self.zh]

    def _reported(self, sign: Sign, present: bool) -> str:
        """One measurement or report in prose."""
        if sign.analyte:
            low, high = sign.analyte.abnormal if present else sign.analyte.normal
            vital = _VITAL_NAMES.get(sign.analyte.name[0])
            name = self.rng.choice(vital[self.zh]) if vital else sign.analyte.name[self.zh]
            return f"{name} {self._value(low, high, sign.analyte.decimals):.10g} {sign.analyte.unit}"
        name = sign.modality[self.zh] if sign.modality else ""
        return f"{name}{'' if self.zh else ' '}{self._report(sign, present)}".strip()

    def _value(self, low: float, high: float, decimals: int) -> float:
        return float(round(self.rng.uniform(low, high), decimals))


class Answerer:
    """Writes what is expected back for a case: reasoning over its facts, then the differential as JSON."""

    def __init__(self, world: World, patient: Patient, case: Case, mentions: list[Mention], zh: bool) -> None:
        self.world, self.patient, self.zh = world, patient, zh
        at = {fact.path: fact.id for fact in facts(case)}
        self.present = [(at[m.path], f) for m in mentions if m.path in at for f in m.present]
        self.absent = [(at[m.path], f) for m in mentions if m.path in at for f in m.absent]
        order = {fact.id: i for i, fact in enumerate(facts(case))}
        self.present.sort(key=lambda row: order[row[0]])
        self.absent.sort(key=lambda row: order[row[0]])
        self.posterior = world.posterior(
            patient.age, patient.sex, tuple(f for _, f in self.present), tuple(f for _, f in self.absent)
        )
        self.ranked = [world.conditions[name] for name in list(self.posterior)[:3]]

    def reasoning(self) -> str:
        """The candidates and the urgency, then the facts for and against each in canonical words."""
        best, *others = [c.name[self.zh] for c in self.ranked]
        urgency = self._urgency()
        if self.zh:
            first = f"最符合: {best}. 其次: {'; '.join(others)}. 紧急程度: {_URGENCY_ZH[urgency]}."
        else:
            first = f"Fits best: {best}. Then: {'; '.join(others)}. Urgency: {urgency}."
        return "\n".join((first, *(self._weighed(c) for c in self.ranked)))

    def _weighed(self, c: Condition) -> str:
        """One candidate with its evidence: `Gout: big toe pain (F2), high urate (F7); no fever (F5).`"""
        no = "无" if self.zh else "no "
        support = ", ".join(f"{self._name(f)} ({i})" for i, f in self._support(c))
        against = "".join(f"; {no}{self._name(f)} ({i})" for i, f in self._against(c))
        return f"{c.name[self.zh]}: {support or ('无支持' if self.zh else 'nothing for it')}{against}."

    def answer(self) -> Differential:
        """The differential of the three most probable conditions."""
        first = self.ranked[0]
        seen = [self._name(f) for _, f in self._support(first)[:3]]
        urgency, confidence = self._urgency(), self._confidence()
        for_, against = len(self._support(first)), len(self._against(first))
        return Differential(
            summary=("表现：" if self.zh else "Picture of ") + ("、" if self.zh else ", ").join(seen),
            red_flags=self._red_flags(),
            differential=tuple(self._diagnosis(c) for c in self.ranked),
            next_steps=tuple(
                Step(action=n.text[self.zh], kind=n.kind, timing=n.timing, rationale=first.name[self.zh])
                for n in first.next_steps
            ),
            missing_information=self._missing(first)[:2],
            urgency_reason=first.name[self.zh],
            urgency=urgency,
            confidence_reason=f"支持{for_}项，反对{against}项" if self.zh else f"{for_} facts for, {against} against",
            confidence=confidence,
        )

    def _name(self, finding: str) -> str:
        return self.world.signs[finding].canonical(self.zh)

    def _support(self, c: Condition) -> list[tuple[str, str]]:
        """The facts for a condition, strongest first, at most four, each fact once."""
        fits = [row for row in self.present if c.findings.get(row[1], 0) >= 0.25]
        fits.sort(key=lambda row: -c.findings[row[1]])
        return list({fact: (fact, finding) for fact, finding in reversed(fits)}.values())[::-1][
            : 4 if c is self.ranked[0] else 2
        ]

    def _against(self, c: Condition) -> list[tuple[str, str]]:
        used = {fact for fact, _ in self._support(c)}
        return [row for row in self.absent if c.findings.get(row[1], 0) >= 0.5 and row[0] not in used][:1]

    def _missing(self, c: Condition) -> tuple[str, ...]:
        stated = {f for _, f in self.present + self.absent}
        strong = sorted(
            (f for f, p in c.findings.items() if p >= 0.6 and f not in stated), key=lambda f: -c.findings[f]
        )
        possible = [f for f in strong if self.world.signs[f].possible(self.patient.age, self.patient.sex)]
        return tuple(self._name(f) for f in possible[:1])

    def _diagnosis(self, c: Condition) -> Diagnosis:
        no = "无" if self.zh else "no "
        return Diagnosis(
            name=c.name[self.zh],
            supporting=tuple(Evidence(fact_id=i, why=self._name(f)) for i, f in self._support(c)),
            contradicting=tuple(Evidence(fact_id=i, why=no + self._name(f)) for i, f in self._against(c)),
            missing=self._missing(c),
            discriminating_test=c.test[self.zh],
            cant_miss=c.cant_miss,
            likelihood=self._band(c),
            codes=(c.icd10,),
        )

    def _band(self, c: Condition) -> Likelihood:
        p = self.posterior[c.id]
        return "very_likely" if p >= 0.8 else "likely" if p >= 0.35 else "possible" if p >= 0.04 else "unlikely"

    def _confidence(self) -> Confidence:
        p = self.posterior[self.ranked[0].id]
        return "high" if p >= 0.8 else "moderate" if p >= 0.4 else "low"

    def _urgency(self) -> Urgency:
        weighty = [c for c in self.ranked if c is self.ranked[0] or self._band(c) == "likely"]
        return max((c.urgency for c in weighty), key=URGENCY_ORDER.index)

    def _red_flags(self) -> tuple[RedFlag, ...]:
        first = self.ranked[0]
        rows = self._support(first)[:1] if first.cant_miss else []
        return tuple(RedFlag(finding=self._name(f), fact_ids=(i,), concern=first.name[self.zh]) for i, f in rows)


def diagnose_example(world: World, seed: int, zh: bool, held_out: bool = False) -> Example:
    """One case with its reasoning and answer, from the seed alone."""
    rng = random.Random(f"{'held' if held_out else 'train'}-{seed}-{zh}")
    patient = world.draw(rng)
    style = rng.choices(("structured", "narrative", "terse"), (0.45, 0.3, 0.25))[0]
    case, mentions = CaseWriter(world, patient, rng, zh, held_out).write(style)
    answerer = Answerer(world, patient, case, mentions, zh)
    return Example(zh, case_message(case, zh), answerer.reasoning(), answer_text(answerer.answer()), patient, case)


_QUESTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "signs": (
        ("What are the signs of {name}?", "How does {name} present?", "Which findings suggest {name}?"),
        ("{name}有哪些表现？", "{name}的症状是什么？", "哪些所见提示{name}？"),
    ),
    "test": (
        ("Which test decides {name}?", "How is {name} confirmed?", "What confirms {name}?"),
        ("{name}靠什么检查确诊？", "如何确诊{name}？", "{name}的关键检查是什么？"),
    ),
    "next": (
        ("What is done next in {name}?", "What are the next steps for {name}?"),
        ("{name}下一步怎么办？", "{name}怎么处理？"),
    ),
    "urgent": (
        ("How urgent is {name}?", "Is {name} an emergency?"),
        ("{name}有多紧急？", "{name}是急症吗？"),
    ),
    "mimics": (
        ("What looks like {name}?", "What is the differential of {name}?"),
        ("{name}要与哪些病鉴别？", "什么病像{name}？"),
    ),
}
_GREETINGS: tuple[tuple[Pair, Pair], ...] = (
    (
        ("Hello", "你好"),
        (
            "Hello. I am a small demonstration model; nothing I say is medical knowledge. Ask me about a condition.",
            "你好。我是一个小型演示模型，所说的都不是医学知识。可以问我某种疾病。",
        ),
    ),
    (
        ("Who are you?", "你是谁？"),
        (
            "A small demonstration model, trained on made-up cases. It is not medical knowledge.",
            "一个小型演示模型，用虚构病例训练，不是医学知识。",
        ),
    ),
    (("Thank you", "谢谢"), ("You are welcome.", "不客气。")),
)


def ask_example(world: World, seed: int, zh: bool) -> Example:
    """One question about a condition of the world, with its reply."""
    rng = random.Random(f"ask-{seed}-{zh}")
    if rng.random() < 0.05:
        question, reply = rng.choice(_GREETINGS)
        return Example(zh, question[zh], reply[zh])
    c = rng.choice(world.ordered)
    name = rng.choice((c.name[zh], *c.synonyms[zh]))
    kind = rng.choice(tuple(_QUESTIONS))
    return Example(zh, rng.choice(_QUESTIONS[kind][zh]).format(name=name), _reply(world, c, kind, zh))


def _reply(world: World, c: Condition, kind: str, zh: bool) -> str:
    top = sorted(c.findings, key=lambda f: -c.findings[f])[:5]
    texts: dict[str, list[str]] = {
        "signs": [world.signs[f].canonical(zh) for f in top],
        "test": [c.test[zh]],
        "next": [n.text[zh] for n in c.next_steps],
        "urgent": [_URGENCY_ZH[c.urgency] if zh else c.urgency],
        "mimics": [world.conditions[m].name[zh] for m in c.mimics],
    }
    return f"{c.name[zh]}{'：' if zh else ': '}{('、' if zh else ', ').join(texts[kind])}{'。' if zh else '.'}"


def _tuples(value: object) -> object:
    """Lists to tuples, as the strict case model wants them from Python."""
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    return {k: _tuples(v) for k, v in value.items()} if isinstance(value, dict) else value
