"""Flags: one row each, in groups that commands share, and the decorator that gives a command its groups."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import typer

from antangel_cli.errors import UsageError
from antangel_cli.help_page import GroupedCommand
from antangel_cli.policy import refuse_locked
from antangel_cli.setting_values import KEYS
from antangel_cli.settings import Settings, load_settings

Progress = Literal["auto", "always", "never"]
Reasoning = Literal["show", "hide", "off"]
InputFormat = Literal["auto", "case", "fhir", "phenopacket", "text"]
Format = Literal["text", "md", "json", "fhir"]
Language = Literal["en", "zh"]
Lookahead = Literal["auto", "on", "off"]
Shape = Literal["flash", "mini"]
Routing = Literal["router", "skewed"]
DataSet = Literal["ddxplus", "healthbench", "medmcqa", "medqa"]
Render = Literal["auto", "markdown", "plain"]
FailOn = Literal["emergency", "urgent", "soon", "routine", "self_care"]


@dataclass(frozen=True)
class Flag:
    """One flag: the keyword it sets, its type (bool: no value), its names and its help."""

    key: str
    kind: Any
    names: tuple[str, ...]
    help: str
    metavar: str | None = None

    def parameter(self, panel: str) -> inspect.Parameter:
        """The command parameter that typer makes this flag of; None means not given."""
        option = typer.Option(
            None, *self.names, help=self.help, metavar=self.metavar, rich_help_panel=panel, show_default=False
        )
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(self.key, kind, default=option, annotation=self.kind | None)


@dataclass(frozen=True)
class Group:
    """Flags that stand together in the help."""

    title: str
    flags: tuple[Flag, ...]


def _flag(kind: Any, *names: str, help: str, metavar: str | None = None, key: str | None = None) -> Flag:
    return Flag(key or names[0].lstrip("-").replace("-", "_"), kind, names, help, metavar)


MODEL = Group(
    "Model",
    (
        _flag(str, "--model", "-m", help="The model's directory.", metavar="DIR"),
        _flag(int, "--seed", help="Seed of the sampling: 0 unless told otherwise, random in chat.", metavar="N"),
        _flag(
            float,
            "--temperature",
            help="Sampling temperature, 0.6 unless told otherwise; 0 is greedy.",
            metavar="T",
        ),
        _flag(
            float,
            "--top-p",
            help="Sample among the tokens that make up this much probability (0.95).",
            metavar="P",
        ),
        _flag(int, "--top-k", help="Sample among this many tokens (20); 0 is all.", metavar="N"),
        _flag(
            int,
            "--max-tokens",
            help="The most tokens of free text: a reply, or the reasoning (2048).",
            metavar="N",
        ),
        _flag(float, "--timeout", help="Stop one generation after this many seconds.", metavar="S"),
    ),
)
BUDGET = Group(
    "Machine",
    (
        _flag(str, "--device", help="auto, cpu or cuda:N.", metavar="DEVICE"),
        _flag(int, "--threads", help="Processor threads.", metavar="N"),
        _flag(int, "--context", help="The most tokens of one conversation or case.", metavar="N"),
        _flag(
            str, "--ram", help="The most memory of this process: 8GiB, 8GB, or 50% of what is usable.", metavar="SIZE"
        ),
        _flag(str, "--vram", help="The most memory on the GPU.", metavar="SIZE"),
        _flag(str, "--kv", help="Memory for the keys and values of running conversations.", metavar="SIZE"),
        _flag(str, "--slots", help="Experts in memory at once: a number, or a share of all.", metavar="N|N%"),
        _flag(bool, "--no-disk", help="Fail rather than read experts from disk while generating."),
    ),
)
MACHINE = Group(
    "Machine",
    (
        *BUDGET.flags,
        _flag(bool, "--wait", help="Wait while another process has the model."),
        _flag(bool, "--stats", help="Print one line of measurements as JSON, last on stderr."),
        _flag(
            str,
            "--trace",
            help="Record which experts were used. The text can be found out from it: only you can read the file.",
            metavar="FILE",
        ),
    ),
)
PAGING = Group(
    "Paging",
    (
        _flag(str, "--policy", help="What leaves a full cache of experts.", metavar="NAME"),
        _flag(Lookahead, "--lookahead", help="Read the next layer's experts ahead.", metavar="auto|on|off"),
        _flag(
            str,
            "--cpu-share",
            help="Of the experts that a GPU is missing, the part that the CPU computes.",
            metavar="auto|0..1",
        ),
    ),
)
READING = Group(
    "Case",
    (
        _flag(InputFormat, "--input-format", help="How to read the input.", metavar="auto|case|fhir|phenopacket|text"),
        _flag(
            bool,
            "--redact",
            help="Remove fields that identify the patient, and in texts names after a title or label, telephone "
            "and record numbers, e-mail and birth dates, instead of refusing the case; others may remain.",
        ),
        _flag(
            bool,
            "--accept-implausible",
            help="Use impossible values as they stand instead of setting them aside.",
        ),
    ),
)
ANSWERING = Group(
    "Case",
    (
        _flag(int, "--max-dx", help="The most diagnoses, 3 to 10 (5).", metavar="N"),
        _flag(
            Reasoning,
            "--reasoning",
            help="The model's reasoning: hide it (default), show it on the page, or have none.",
            metavar="show|hide|off",
        ),
        _flag(
            Language,
            "--lang",
            help="Language of the answer; the case's unless told otherwise.",
            metavar="en|zh",
        ),
    ),
)
DOSES = _flag(bool, "--doses", help="Show the doses that the model names, marked as unchecked, where that is allowed.")
CASES = Group(
    "Case",
    (
        *READING.flags,
        *ANSWERING.flags,
        _flag(
            FailOn,
            "--fail-on",
            help="Exit 10 when the final urgency is this or above, or not certain.",
            metavar="URGENCY",
        ),
        _flag(bool, "--doses", help="Show the doses that the model names, marked as unchecked, where that is allowed."),
    ),
)
SAMPLES = Group(
    "Case",
    (_flag(int, "--samples", help="Answer N times and say how often the answers agree.", metavar="N"),),
)
REPLAY = Group(
    "Case",
    (
        _flag(
            str,
            "--replay",
            help="Repeat this result of the same case, and say whether the two are equal.",
            metavar="RESULT",
        ),
    ),
)
FORMAT = Group(
    "Output", (_flag(Format, "--format", help="The page, Markdown, JSON or FHIR R4.", metavar="text|md|json|fhir"),)
)
LANGUAGE = Group("Output", (_flag(Language, "--lang", help="Language of the example.", metavar="en|zh"),))
CONVERSATION = Group(
    "Chat",
    (
        _flag(str, "--case", help="Talk about this case.", metavar="FILE"),
        _flag(str, "--system", help="Add to the model's instructions.", metavar="TEXT"),
        _flag(str, "--system-file", help="Add a file's text to the model's instructions.", metavar="FILE"),
        _flag(str, "--session", help="Open this session, or make it; each turn is kept in it.", metavar="NAME"),
        _flag(bool, "--resume", help="Go on with the session that was kept last."),
        _flag(bool, "--history", help="Keep every conversation in a session of its own."),
        _flag(
            Render,
            "--render",
            help="Replies as Markdown, or as the model wrote them; Markdown on a terminal unless told otherwise.",
            metavar="auto|markdown|plain",
        ),
        _flag(bool, "--vi", help="Edit messages with vi's keys."),
        DOSES,
    ),
)
LINES = Group(
    "Batch",
    (
        _flag(str, "--concurrency", help="Cases at once.", metavar="auto|N"),
        _flag(bool, "--unordered", help="Write each result when it is done, not in input order."),
        _flag(bool, "--resume", help="Go on with -o FILE: what it has is kept, errors are tried again."),
        _flag(str, "--skip-done", help="Leave out what this output has, as for: ... >> FILE.", metavar="FILE"),
        _flag(str, "--fingerprint-key", help="The key of the fingerprints, to share between machines.", metavar="FILE"),
        _flag(int, "--max-errors", help="Stop reading after this many errors.", metavar="N"),
        _flag(bool, "--fail-fast", help="Stop reading at the first error."),
        _flag(str, "--errors", help="Write a copy of every error record to this file.", metavar="FILE"),
        _flag(str, "--summary", help="Write counts, rates and times as JSON to this file.", metavar="FILE"),
        _flag(int, "--limit", help="Only the first N lines.", metavar="N"),
        _flag(bool, "--dry-run", help="Read and check every line; no model."),
    ),
)
EVALUATION = Group(
    "Evaluation",
    (
        _flag(str, "--against", help="List what changed against the results of an earlier run.", metavar="FILE"),
        _flag(str, "--results", help="Write the results too, a line each, to compare with later.", metavar="FILE"),
        _flag(bool, "--stability", help="Answer twins too: an instruction put in, the sex swapped, older."),
        _flag(
            DataSet,
            "--import",
            help="Make cases of a published data set's file instead, and no model.",
            metavar="ddxplus|healthbench|medmcqa|medqa",
            key="import_format",
        ),
        _flag(int, "--limit", help="Only the first N cases.", metavar="N"),
        _flag(str, "--concurrency", help="Cases at once.", metavar="auto|N"),
    ),
)
WRITING = Group(
    "Output",
    (
        _flag(str, "--output", "-o", help="Write to this file instead of stdout.", metavar="FILE"),
        _flag(bool, "--force", help="Overwrite an existing output file."),
    ),
)
PACKING = Group(
    "Pack",
    (
        _flag(str, "--output", "-o", help="The directory to make; begun before, it is gone on with.", metavar="DIR"),
        _flag(
            str,
            "--experts",
            help="Number format of the experts (w4a8:64): w4a8 or w8a8 in groups of 32, 64 or 128, or bf16.",
            metavar="FORMAT",
        ),
        _flag(str, "--dense", help="Number format of every other matrix (w8a8:64).", metavar="FORMAT"),
        _flag(str, "--check", help="Verify every byte of this pack instead.", metavar="DIR"),
    ),
)
BENCH = Group(
    "Benchmark",
    (
        _flag(
            Shape,
            "--shape",
            help="Measure random weights of this model's true size, made once: flash is AntAngelMed's, 57 GB.",
            metavar="flash|mini",
        ),
        _flag(int, "--layers", help="Of --shape, only so many layers.", metavar="N"),
        _flag(str, "--dir", help="Where to make them; in the cache unless told.", metavar="DIR"),
        _flag(
            int, "--prompt", help="Tokens of each prompt; as long as the example cases are unless told.", metavar="N"
        ),
        _flag(int, "--new", help="Tokens to make after each prompt (64).", metavar="N"),
        _flag(int, "--batch", help="Requests at once (1).", metavar="N"),
        _flag(int, "--rounds", help="Warm rounds after the cold one (3).", metavar="N"),
        _flag(
            Routing,
            "--routing",
            help="Experts as the router chooses them, or as skewed as in a recorded trace.",
            metavar="router|skewed",
        ),
        _flag(str, "--trace-skew", help="The trace whose skew is taken.", metavar="FILE"),
        _flag(str, "--replay", help="Hit rates of every policy on a recorded trace, and no model.", metavar="FILE"),
    ),
)
PLANNING = Group(
    "Plan",
    (
        _flag(int, "--prompt", help="Tokens of the prompt whose first token is predicted (1000).", metavar="N"),
        _flag(int, "--batch", help="Sequences at a time (1).", metavar="N"),
        _flag(
            str,
            "--experts",
            help="Number format of the experts of what is no pack yet (w4a8:64).",
            metavar="FORMAT",
        ),
        _flag(str, "--dense", help="Number format of every other matrix (w8a8:64).", metavar="FORMAT"),
    ),
)
OTHER_MACHINE = Group(
    "Another machine than this (--ram is then what it has; what is not told is taken from this one)",
    (
        _flag(str, "--gpu", help="Memory of its GPU: 24GB or 24GiB; or none.", metavar="SIZE|none"),
        _flag(str, "--pcie", help="Its GPU's link: a generation with 16 lanes (4), or a rate.", metavar="3|4|5|RATE"),
        _flag(str, "--dram", help="How fast its cores read memory, sustained: 75GB/s.", metavar="RATE"),
        _flag(str, "--disk", help="How fast its disk reads pieces of an expert's size: 3GB/s.", metavar="RATE"),
        _flag(int, "--cores", help="Its processor's cores.", metavar="N"),
    ),
)
COMMON = Group(
    "General",
    (
        _flag(str, "--config", help="A configuration file, stronger than the user's own.", metavar="FILE"),
        _flag(bool, "--json", help="Answer in JSON; a failure is then a JSON record too."),
        _flag(bool, "--quiet", "-q", help="No notice and no remarks on stderr."),
        _flag(bool, "--verbose", "-v", help="Say on stderr what is loaded, and from where."),
        _flag(bool, "--debug", help="Show the traceback of an internal error."),
        _flag(bool, "--no-color", help="No colour."),
        _flag(bool, "--plain", help="Plain text: no boxes, colour or moving progress."),
        _flag(bool, "--no-input", help="Never ask; fail instead."),
        _flag(Progress, "--progress", help="Show progress on stderr.", metavar="auto|always|never"),
    ),
)

Function = Callable[..., int | None]


def command(app: typer.Typer, *groups: Group, name: str | None = None) -> Callable[[Function], Function]:
    """Register a function as a command: it gets `settings`, and its groups' flags that are no settings."""

    def register(function: Function) -> Function:
        def run(**values: Any) -> int | None:
            settings = _settings(values)
            with _site_rules(settings.site_rules):
                return function(settings=settings, **values)

        own = _own_parameters(function)
        shared = [flag.parameter(group.title) for group in (*groups, COMMON) for flag in group.flags]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shared
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {}
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        app.command(name or function.__name__, cls=GroupedCommand)(run)
        return function

    return register


@contextmanager
def _site_rules(path: str | None) -> Iterator[None]:
    """A site's own red-flag rules beside ours while a command runs. Raises InputError for a wrong file."""
    if path is None:
        yield
        return
    from antangel_cli.clinic.checks.red_flags import add_site_rules

    add_site_rules(path)
    try:
        yield
    finally:
        add_site_rules(None)


def _own_parameters(function: Function) -> list[inspect.Parameter]:
    """The flags and arguments of this command alone: the parameters annotated for typer."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return [p for p in parameters if getattr(p.annotation, "__metadata__", None)]


def _settings(values: dict[str, Any]) -> Settings:
    """Take the settings out of a command's values and load the other layers beneath them."""
    chosen = values.get("format")
    if values.get("json") and chosen not in (None, "json"):
        raise UsageError(f"--json and --format {chosen} exclude each other.", "Leave one of them out.")
    if chosen == "json":
        values["json"] = True
    config = values.pop("config")
    named = {key for key, value in values.items() if value is not None and value is not False}
    given = {key: values.pop(key) for key in KEYS if key in values}
    settings = load_settings({key: value for key, value in given.items() if key in named}, config)
    refuse_locked(named, settings.locked, settings.origin("locked"))
    return settings
