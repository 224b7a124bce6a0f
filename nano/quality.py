"""What each number format costs on the demonstration model: `python -m nano.quality`.

Perplexity on held-out text, and the share of held-out cases whose first three diagnoses change against bf16. Writes
bench/results/quality.json and the table of docs/quality.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from antangel_cli.clinic.prompt import THINK_OPEN
from nano.corpus import Example, diagnose_example
from nano.evaluate import Subject, diagnose_request, perplexity, ranked, stage_texts
from nano.export import CHECKPOINT
from nano.world import load_world
from runtime import Request, write_pack

ROOT = Path(__file__).resolve().parent.parent
PAGE, RESULT = ROOT / "docs" / "quality.md", ROOT / "bench" / "results" / "quality.json"
MARKS = ("<!-- table -->\n", "<!-- end of table -->\n")


@dataclass(frozen=True)
class Formats:
    """How routed experts are stored, and how every other matrix is."""

    experts: str
    dense: str

    def __str__(self) -> str:
        return f"experts {self.experts}, rest {self.dense}"


TRIED = (
    Formats("w8a8:64", "w8a8:64"),
    Formats("w4a8:32", "w8a8:64"),
    Formats("w4a8:64", "w8a8:64"),
    Formats("w4a8:128", "w8a8:64"),
    Formats("w4a8:64", "w4a8:64"),
)


@dataclass(frozen=True)
class Answers:
    """What a model made of each case: its reasoning, and the first three names of its answer."""

    reasoning: list[str]
    names: list[list[str]]


@dataclass(frozen=True)
class Quality:
    """One row. `changed` compares with the baseline when each reasons for itself, `changed_given` when each is given the
    baseline's reasoning: the share of cases whose first three names are others or in another order. `first_changed`
    and `first_given` are the same of the first name alone.
    """

    formats: str
    perplexity: float
    right_first: float
    changed: float | None
    first_changed: float | None
    changed_given: float | None
    first_given: float | None
    seconds: float


Cases = list[tuple[str, Example]]


def answered(subject: Subject, cases: Cases, seed: int = 0) -> Answers:
    """Reasoning as sampled by default, then the constrained answer."""
    requests = [diagnose_request(subject, example, seed=seed) for _, example in cases]
    found = replies(subject, requests)
    return Answers([texts[0] for texts in found], [ranked(texts[1])[:3] for texts in found])


def answered_given(subject: Subject, cases: Cases, reasoning: list[str]) -> list[list[str]]:
    """The first three names of the constrained answer behind a reasoning that is given."""
    requests = []
    for (_, example), thought in zip(cases, reasoning, strict=True):
        _, answer = diagnose_request(subject, example).stages
        prefix = f"{THINK_OPEN}{thought}{answer.prefix}"
        requests.append(Request(subject.prompt(example), (replace(answer, prefix=prefix),)))
    return [ranked(texts[0])[:3] for texts in replies(subject, requests)]


def replies(subject: Subject, requests: list[Request]) -> list[list[str]]:
    """The text of each stage of each request."""
    engine = subject.engine(sequences=16)
    texts = stage_texts(engine, requests)
    engine.close()
    return texts


def right(names: list[list[str]], cases: Cases) -> float:
    truth = [example.patient.condition.name[language == "zh"] for language, example in cases if example.patient]
    return share([row[:1] == [name] for row, name in zip(names, truth, strict=True)])


def share(found: list[bool]) -> float:
    return sum(found) / len(found)


def differs(a: list[list[str]], b: list[list[str]], count: int) -> float:
    """Of the cases, the share whose first `count` names are not the same in the same order."""
    return share([one[:count] != other[:count] for one, other in zip(a, b, strict=True)])


def measure(
    path: Path, formats: str, cases: Cases, baseline: tuple[Answers, list[list[str]]] | None, seed: int = 0
) -> tuple[Quality, Answers, list[list[str]]]:
    """Answer every case, alone and behind the baseline's reasoning, and weigh every expected reply."""
    started, subject = time.monotonic(), Subject(path)
    own = answered(subject, cases, seed)
    reference, given = baseline or (own, None)
    behind = answered_given(subject, cases, reference.reasoning)
    row = Quality(
        formats=formats,
        perplexity=perplexity(subject, [example for _, example in cases]),
        right_first=right(own.names, cases),
        changed=differs(own.names, reference.names, 3) if given else None,
        first_changed=differs(own.names, reference.names, 1) if given else None,
        changed_given=differs(behind, given, 3) if given else None,
        first_given=differs(behind, given, 1) if given else None,
        seconds=round(time.monotonic() - started, 1),
    )
    return row, own, behind


def measured(checkpoint: Path, count: int) -> Iterator[Quality]:
    """The baseline, the baseline with another seed, then each format."""
    world = load_world()
    cases = [
        (language, diagnose_example(world, seed, language == "zh", held_out=True))
        for language in ("en", "zh")
        for seed in range(count)
    ]
    first, own, behind = measure(checkpoint, "bf16", cases, None)
    yield first
    yield measure(checkpoint, "bf16, another seed", cases, (own, behind), seed=1)[0]
    for formats in TRIED:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "pack"
            write_pack(checkpoint, place, experts=formats.experts, dense=formats.dense)
            yield measure(place, str(formats), cases, (own, behind))[0]


def table(rows: list[Quality]) -> str:
    """The rows as Markdown."""
    lines = [
        "| formats | perplexity | right first name | first three changed | first changed | the same, reasoning given | first changed |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        shares = (row.changed, row.first_changed, row.changed_given, row.first_given)
        changes = " | ".join("-" if value is None else f"{value:.1%}" for value in shares)
        lines.append(f"| {row.formats} | {row.perplexity:.4f} | {row.right_first:.1%} | {changes} |")
    return "\n".join(lines) + "\n"


def write(rows: list[Quality], page: Path = PAGE, result: Path = RESULT) -> None:
    """The figures as JSON, and the table in its place on the page."""
    result.write_text(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    page.write_text(before + MARKS[0] + table(rows) + MARKS[1] + rest.split(MARKS[1])[1], encoding="utf-8")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--cases", type=int, default=100, help="held-out cases per language")
    options = parser.parse_args()
    rows: list[Quality] = []
    for row in measured(options.checkpoint, options.cases):
        rows.append(row)
        print(f"{row.formats}: {row.seconds} s", flush=True)
    write(rows)
    print(table(rows))


if __name__ == "__main__":
    main()
