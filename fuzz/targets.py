"""What is fuzzed: each target runs one input, and raises nothing but what it may."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from antangel_cli.case_lines import BadLineError, read_line
from antangel_cli.clinic.audit import Entry, append, log_file
from antangel_cli.clinic.audit_check import verify
from antangel_cli.clinic.case import SCHEMA_ID, Case
from antangel_cli.clinic.checks import facts_to_use, red_flags_in_text, run_checks
from antangel_cli.clinic.checks.drugs.names import drugs_in, resolve_allergen
from antangel_cli.clinic.diagnose import DiagnoseOptions, diagnose
from antangel_cli.clinic.dose import withhold_doses
from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.evaluation.compare import read_outlines
from antangel_cli.clinic.evaluation.gold import read_gold
from antangel_cli.clinic.evaluation.importers import IMPORTERS
from antangel_cli.clinic.privacy import identifiers_in, without_identifiers
from antangel_cli.clinic.readers import READERS, read_case
from antangel_cli.clinic.replay import read_results
from antangel_cli.clinic.writers import WRITERS, write
from antangel_cli.lines import Line
from fuzz import seeds
from fuzz.model import Saying
from fuzz.mutate import broken, changed, dumped, grown
from fuzz.watch import PropertyError, Run
from fuzz.words import CANARY, prose, repeated

Make = Callable[[Random], bytes]
LARGEST = 1 << 20
LARGE_SHARE = 0.002
"""So many of the inputs are grown towards 1 MiB."""


@dataclass(frozen=True)
class Target:
    """A name, how an input is made, and what is run on it."""

    name: str
    make: Make
    run: Run


def tree(documents: Callable[[], tuple[Any, ...]]) -> Make:
    """Inputs made by changing documents."""

    def make(random: Random) -> bytes:
        content = changed(random, random.choice(documents()))
        if random.random() < LARGE_SHARE and isinstance(content, dict | list):
            content = grown(random, content, random.randrange(LARGEST))
        return broken(random, dumped(random, content))

    return make


def text(random: Random) -> bytes:
    """Prose, now and then a great deal of it."""
    if random.random() < LARGE_SHARE:
        made = repeated(random, LARGEST // 4)
    elif random.random() < 0.1:
        made = repeated(random, 20_000)
    else:
        made = prose(random)
    return broken(random, made.encode("utf-8", "surrogatepass"))


@contextlib.contextmanager
def refusal(*kinds: type[Exception]) -> Iterator[None]:
    """A refusal is an answer, as long as it repeats no patient's word."""
    try:
        yield
    except kinds as error:
        if CANARY.lower() in f"{error} {error!r}".lower():
            raise PropertyError("a refusal repeats the input") from error


def examine(case: Case) -> None:
    """Everything that is done with a case before a model sees it. Raises InputError."""
    rows = facts_to_use(case)
    checks = run_checks(case, rows).to_json()
    json.dumps(checks)
    if CANARY.lower() in f"{case!r} {rows!r}".lower():
        raise PropertyError("a repr shows the case")


def reader(input_format: str, redact: bool = False) -> Run:
    """A reader, and the checks on what it read."""

    def run(data: bytes) -> None:
        with refusal(InputError):
            examine(read_case(data, None, input_format, redact=redact))

    return run


def batch_line(data: bytes) -> None:
    """A line of a batch."""
    with refusal(BadLineError, InputError):
        examine(read_line(Line(1, data), "auto", set()))


def gold(data: bytes) -> None:
    """A case's gold."""
    with refusal(InputError):
        read_gold(read_case(data, None, "case"))


def checks(data: bytes) -> None:
    """The check rules on prose in every place that they read, in a language that depends on it."""
    said = data.decode("utf-8", "replace") or " "
    with refusal(InputError):
        examine(_stating(said, "zh" if len(data) % 2 else "en"))
    red_flags_in_text(said)


def _stating(said: str, language: str) -> Case:
    short = said[:1000]
    content = {
        "schema": SCHEMA_ID,
        "id": "t",
        "language": language,
        "patient": {"age": {"value": 30.0}, "sex_at_birth": "female"},
        "chief_complaint": said,
        "findings": ({"text": short},),
        "vitals": (
            {"name": short, "value": short, "unit": short},
            {"name": "pulse", "value": short, "unit": "/min", "time": short},
        ),
        "notes": ({"text": short},),
    }
    return Case.model_validate(content)


EXAMPLE: Any = seeds.cases()[0]
PLAIN = DiagnoseOptions(reasoning="off")


def answer(data: bytes) -> None:
    """The parser of answers, the post-checks, the record and every writer."""
    for doses in (False, True):
        case = read_case(json.dumps(EXAMPLE).encode(), None, "case")
        said = Saying(data.decode("utf-8", "replace"))
        record = diagnose(case, DiagnoseOptions(reasoning="off", doses=doses), said)
        for name in WRITERS:
            require_harmless(name, write(record, case, name, plain=doses, width=40 + 40 * doses))


_STEERING = {*range(0x20), 0x7F, *range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {0x0A}


def require_harmless(name: str, page: str) -> None:
    """No writer puts out what steers a terminal; tabs are no steering in JSON, which escapes them."""
    if found := {ord(char) for char in page} & _STEERING:
        raise PropertyError(f"{name} writes U+{min(found):04X}")


def written_case(data: bytes) -> None:
    """The writers on any case that can be read, with a sound answer."""
    with refusal(InputError):
        case = read_case(data, None, "case")
        record = diagnose(case, PLAIN, Saying(_sound(case)))
        for name in WRITERS:
            require_harmless(name, write(record, case, name))


def _sound(case: Case) -> str:
    content = json.loads(json.dumps(seeds.answers()[0]))
    first = facts_to_use(case)[:1]
    for diagnosis in content["differential"]:
        diagnosis["supporting"] = [{"fact_id": fact.id, "why": "x"} for fact in first]
        diagnosis["contradicting"] = []
    return json.dumps({**content, "red_flags": []})


def words(data: bytes) -> None:
    """Doses, drug names and identifiers in any text."""
    said = data.decode("utf-8", "replace")
    for chinese in (False, True):
        withhold_doses(said, chinese)
    drugs_in(said)
    resolve_allergen(said)
    identifiers_in(said)
    without_identifiers(said)


def earlier_results(data: bytes) -> None:
    """Results that are read back, to compare with or to repeat."""
    said = data.decode("utf-8", "replace")
    with refusal(InputError):
        read_outlines(said)
    with refusal(InputError):
        read_results(said, "result.json")


def importer(name: str) -> Run:
    """An importer, and the case reader on what it made."""
    beside = {"release_conditions.json": seeds.CONDITIONS, "release_evidences.json": seeds.EVIDENCES}

    def run(data: bytes) -> None:
        lines = data.decode("utf-8", "replace").splitlines(keepends=True)
        with refusal(InputError):
            for content in IMPORTERS[name](lines, lambda table: json.dumps(beside[table])):
                if content is not None:
                    read_gold(read_case(json.dumps(content).encode(), None, "case"))

    return run


def patients(random: Random) -> bytes:
    """A CSV with something put in."""
    cut = random.randrange(len(seeds.PATIENTS))
    return broken(
        random, (seeds.PATIENTS[:cut] + prose(random, 2) + seeds.PATIENTS[cut:]).encode("utf-8", "surrogatepass")
    )


def audit_log(random: Random) -> bytes:
    """A log of a few lines with lines moved, changed, repeated or cut."""
    lines = _log().splitlines(keepends=True)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(lines))
        line = lines.pop(at)
        spoiled = (
            line[: random.randrange(len(line))] + bytes([random.randrange(256)]) + line[random.randrange(len(line)) :]
        )
        lines[at:at] = random.choice(
            ([], [line, line], [spoiled], [*lines[:1], line], [prose(random).encode("utf-8", "replace")])
        )
        if not lines:
            break
    return b"".join(lines)


def _log() -> bytes:
    """The log as it was written, made on first use in the state folder of this run."""
    kept = log_file().with_name("audit.kept")
    if not kept.exists():
        for number in range(5):
            append(Entry("diagnose", number % 2, rules_version="1"))
        kept.write_bytes(log_file().read_bytes())
    return kept.read_bytes()


def audit(data: bytes) -> None:
    """A log that is not the one written is never found sound."""
    whole = _log()
    log_file().write_bytes(data)
    found = verify()
    if data != whole and not found.findings:
        raise PropertyError("a changed log is sound")


def entries() -> tuple[Any, ...]:
    """Entries of the data sets that are imported."""
    return seeds.ENTRIES


TARGETS = (
    Target("text", text, reader("text")),
    *(Target(name, tree(made), reader(name)) for name, made in (("case", seeds.cases), ("fhir", seeds.bundles))),
    Target("phenopacket", tree(lambda: seeds.PACKETS), reader("phenopacket")),
    Target("auto", tree(lambda: (*seeds.cases(), *seeds.bundles(), *seeds.PACKETS)), reader("auto")),
    Target("redact", tree(lambda: (*seeds.cases(), *seeds.bundles())), reader("auto", redact=True)),
    Target("batch_line", tree(seeds.cases), batch_line),
    Target("gold", tree(seeds.cases), gold),
    Target("checks", text, checks),
    Target("answer", tree(seeds.answers), answer),
    Target("written_case", tree(seeds.cases), written_case),
    Target("words", text, words),
    Target("earlier_results", tree(seeds.results), earlier_results),
    Target("import_ddxplus", patients, importer("ddxplus")),
    *(Target(f"import_{name}", tree(entries), importer(name)) for name in ("healthbench", "medqa", "medmcqa")),
    Target("audit", audit_log, audit),
)
"""Every target. A reader that is registered and has none fails a test."""

assert set(READERS) <= {target.name for target in TARGETS}
