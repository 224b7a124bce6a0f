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
from dataclasses import asdict, dataclass
from pathlib import Path

from nano.corpus import Example, diagnose_example
from nano.evaluate import Subject, answers, diagnose_request, perplexity, ranked
from nano.export import CHECKPOINT
from nano.world import load_world
from runtime import write_pack

ROOT = Path(__file__).resolve().parent.parent
PAGE, RESULT = ROOT / "docs" / "quality.md", ROOT / "bench" / "results" / "quality.json"
MARKS = ("<!-- table -->\n", "<!-- end of table -->\n")


@dataclass(frozen=True)
class Formats:
    """How routed experts are stored, and how every other matrix is; None: the checkpoint as it is."""

    experts: str | None
    dense: str | None

    def __str__(self) -> str:
        return f"experts {self.experts}, rest {self.dense}" if self.experts else "bf16"


BASELINE = Formats(None, None)
TRIED = (
    Formats("w8a8:64", "w8a8:64"),
    Formats("w4a8:32", "w8a8:64"),
    Formats("w4a8:64", "w8a8:64"),
    Formats("w4a8:128", "w8a8:64"),
    Formats("w4a8:64", "w4a8:64"),
)


@dataclass(frozen=True)
class Quality:
    """One row: `changed_lists` counts other names or another order among the first three, `changed_sets` other names."""

    formats: str
    perplexity: float
    first_names: dict[str, list[list[str]]]
    right_first: float
    seconds: float
    changed_lists: float = 0.0
    changed_sets: float = 0.0


def measure(path: Path, formats: Formats, cases: dict[str, list[Example]]) -> Quality:
    """Answer every case and weigh every expected reply."""
    started, subject = time.monotonic(), Subject(path)
    names: dict[str, list[list[str]]] = {}
    for language, examples in cases.items():
        engine = subject.engine(sequences=16)
        texts = answers(engine, [diagnose_request(subject, example) for example in examples])
        names[language] = [ranked(text)[:3] for text in texts]
        engine.close()
    everything = [example for examples in cases.values() for example in examples]
    truth = [
        example.patient.condition.name[language == "zh"]
        for language in cases
        for example in cases[language]
        if example.patient
    ]
    found = [row for rows in names.values() for row in rows]
    return Quality(
        formats=str(formats),
        perplexity=perplexity(subject, everything),
        first_names=names,
        right_first=sum(row[:1] == [name] for row, name in zip(found, truth, strict=True)) / len(truth),
        seconds=round(time.monotonic() - started, 1),
    )  # fmt: skip


def against(baseline: Quality, row: Quality) -> Quality:
    """The row with its changes against the baseline."""
    pairs = [
        pair
        for language, rows in baseline.first_names.items()
        for pair in zip(rows, row.first_names[language], strict=True)
    ]
    lists = sum(a != b for a, b in pairs) / len(pairs)
    sets = sum(set(a) != set(b) for a, b in pairs) / len(pairs)
    values = asdict(row) | {"changed_lists": lists, "changed_sets": sets}
    return Quality(**values)


def measured(checkpoint: Path, count: int) -> Iterator[Quality]:
    """The baseline, then each format."""
    world = load_world()
    cases = {
        language: [diagnose_example(world, seed, language == "zh", held_out=True) for seed in range(count)]
        for language in ("en", "zh")
    }
    baseline = measure(checkpoint, BASELINE, cases)
    yield baseline
    for formats in TRIED:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "pack"
            write_pack(checkpoint, place, experts=str(formats.experts), dense=str(formats.dense))
            yield against(baseline, measure(place, formats, cases))


def table(rows: list[Quality]) -> str:
    """The rows as Markdown."""
    lines = [
        "| formats | perplexity | right first name | first three changed | other names among them |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        changes = f"{row.changed_lists:.1%} | {row.changed_sets:.1%}" if row is not rows[0] else "- | -"
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
