"""The self-test before a model's first use: its texts, and the verdicts that are kept so that it runs once."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from antangel_cli import ROOT, __version__, load
from antangel_cli.clinic.model import Model, Turn
from antangel_cli.clinic.prompt import load_prompt
from antangel_cli.errors import CommandError, ModelError
from antangel_cli.files import write_whole
from antangel_cli.places import home, private

TEXTS = ROOT / "prompts" / "self_test.toml"
SCHEMA = "antangel.self_test/1"

# A test that takes longer is spoken of.
SILENT_S = 2.0

# Why a sound model may have no room for the texts: the context or the cache that was asked for is small.
UNFIT = ("too_long", "does_not_fit")

Exchange = tuple[tuple[Turn, ...], str]
"""A conversation that ends with a question, and the answer to it."""


@dataclass(frozen=True)
class Texts:
    """What is weighed: answers, and prose. `demonstration_nats` is what the demonstration may have for a token."""

    exchanges: tuple[Exchange, ...] = field(repr=False)
    prose: tuple[str, ...] = field(repr=False)
    demonstration_nats: float
    hash: str


@dataclass(frozen=True)
class Report:
    """What the self-test found, or found when it was last run. `faults` are empty in health."""

    model: str
    weights: str
    kernels: str
    version: str
    created: str
    faults: tuple[str, ...]
    nats: float | None
    most_nats: float
    tokens: int
    spoken: int
    seconds: float

    @property
    def sound(self) -> bool:
        return not self.faults

    @property
    def line(self) -> str:
        """The verdict in one line."""
        found = "passed" if self.sound else f"FAILED: {'; '.join(self.faults)}"
        nats = "" if self.nats is None else f"{self.nats:.3f} nats a token (at most {self.most_nats:.3g}), "
        return f"{found}; {nats}{self.tokens} tokens weighed, {self.spoken} spoken, {self.seconds:.1f} s"


def require_sound(model: Model, tell: Callable[[str], None]) -> None:
    """Test a model at its first use, and later go by the verdict that was kept. Raises ModelError where it fails."""
    if load.untestable(model) is not None:
        return
    report = kept(model)
    if report is None:
        if not model.demonstration:
            tell(f"Testing {model.name}, once: it is given a text to read and to continue.")
        try:
            report = examine(model)
        except CommandError as error:
            if error.code not in UNFIT:
                raise
            tell(f"The self-test was not run: {error.message}")
            return
        if report.seconds > SILENT_S:
            tell(f"The self-test took {report.seconds:.1f} s; its verdict is kept.")
    if not report.sound:
        raise failure(report)


def failure(report: Report) -> ModelError:
    """Why a model may not be used."""
    return ModelError(
        f"{report.model} fails its self-test: {'; '.join(report.faults)}.",
        "Its weights are damaged, or of another model. Check the bytes with antangel pack --check DIR, and pack the "
        "model again; antangel doctor DIR repeats the test.",
        code="model_damaged",
        stage="self_test",
    )


def examine(model: Model) -> Report:
    """Test a model now, and keep the verdict. Raises RejectedError or ModelError where the texts do not fit."""
    texts = load_texts()
    prose = () if model.demonstration else texts.prose
    found = load.self_test(model, texts.exchanges, prose, texts.demonstration_nats if model.demonstration else None)
    known, now = model.provenance, datetime.now(UTC).isoformat(timespec="seconds")
    report = Report(model.name, known["weights"], known["backend"], __version__, now, **found)
    _keep(_place(model, texts), report)
    return report


def kept(model: Model) -> Report | None:
    """The verdict on these weights with these kernels and this version, if there is one."""
    try:
        content = json.loads(_place(model, load_texts()).read_text(encoding="utf-8"))
        return _parsed(content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _parsed(content: Mapping[str, Any]) -> Report | None:
    if content["schema"] != SCHEMA:
        return None
    values = {key: value for key, value in content.items() if key != "schema"}
    return Report(**values | {"faults": tuple(content["faults"])})


def _keep(place: Path, report: Report) -> None:
    """Where the cache cannot be written, the next use tests again."""
    try:
        private(place.parent)
        write_whole(str(place), json.dumps({"schema": SCHEMA, **asdict(report)}, ensure_ascii=False) + "\n", force=True)
    except (OSError, CommandError):
        return


def _place(model: Model, texts: Texts) -> Path:
    known = model.provenance
    parts = (str(known["weights"]), str(known["backend"]), __version__, texts.hash, str(model.demonstration))
    return verdicts_home() / f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]}.json"


def verdicts_home() -> Path:
    """Where verdicts are kept."""
    return home("cache") / "self-tests"


@cache
def load_texts() -> Texts:
    """The texts of `prompts/self_test.toml`."""
    data = TEXTS.read_bytes()
    content = tomllib.loads(data.decode())
    exchanges = tuple(_exchange(entry) for entry in content["questions"])
    prose = tuple(entry["text"].strip() for entry in content["prose"])
    return Texts(exchanges, prose, content["demonstration_nats"], hashlib.sha256(data).hexdigest())


def _exchange(entry: Mapping[str, str]) -> Exchange:
    """A question as `ask` sends it."""
    prompt = load_prompt("ask", entry["language"] == "zh")
    system = "\n\n".join(part for part in (prompt.system, prompt.instructions) if part)
    return (Turn("system", system), Turn("user", entry["question"])), entry["answer"]
