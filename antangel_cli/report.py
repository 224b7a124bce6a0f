"""`antangel report`: what a complaint needs, and nothing of the patient or of who sends it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import pwd
import re
import zipfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from antangel_cli import load, source
from antangel_cli.audit import as_record
from antangel_cli.auditing import fired
from antangel_cli.clinic.audit import AuditError
from antangel_cli.clinic.audit_check import verify
from antangel_cli.clinic.provenance import tool
from antangel_cli.clinic.result import SCHEMA_ID
from antangel_cli.clinic.rules import rules_provenance
from antangel_cli.errors import RejectedError
from antangel_cli.files import STDIN, decode, read_input, require_writable, write_whole
from antangel_cli.options import CaseOptions
from antangel_cli.permissions import examine_places
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal

LIBRARIES = ("torch", "safetensors", "tokenizers", "numpy", "jinja2", "llguidance", "pydantic", "typer", "rich")

_WORD = re.compile(r"[A-Za-z0-9_.:+-]{1,80}")
"""What may stand in a report as text: a hash, a version, a code. A sentence does not match."""

_PROVENANCE = {
    "tool": ("name", "version", "commit"),
    "model": ("weights", "number_format", "demonstration", "tokenizer", "template", "backend", "device"),
    "prompt": ("id", "version", "hash"),
    "schema": ("id", "hash"),
    "rules": ("version", "hash", "reviewed"),
    "tokens": ("prompt", "reasoning", "answer"),
    "timings": ("total_s", "first_token_s"),
}
"""What is taken of a result's provenance; a model's name is its directory's and may be anybody's."""


def report(settings: Settings, result: str | None, options: CaseOptions) -> int:
    """Print the report's content, or write it as a zip and say what is in it."""
    terminal = Terminal.of(settings)
    require_writable(options.output, options.force)
    parts = gather(settings, result, terminal)
    if options.output is None or options.output == STDIN:
        terminal.answer(json.dumps(parts, indent=None if settings.json else 2, sort_keys=True))
        terminal.remark("This is all that a report holds. Write it with -o FILE.zip.")
        return 0
    texts = {f"{name}.json": json.dumps(part, indent=2, sort_keys=True) + "\n" for name, part in parts.items()}
    write_whole(options.output, _zipped(texts), options.force)
    listed = ", ".join(f"{name} ({len(text)} bytes)" for name, text in texts.items())
    terminal.remark(f"Written to {options.output}: {listed}. Read it before you send it.")
    return 0


def gather(settings: Settings, result: str | None, terminal: Terminal) -> dict[str, Any]:
    """The parts by name. Raises UsageError or RejectedError for a result that is none."""
    parts = {"versions": _versions(), "machine": _machine(terminal), "model": _model(settings), "audit": _audit()}
    if result is not None:
        parts["result"] = _result(_read(result, settings.no_input))
    private = _private_words()
    return {name: _scrubbed(part, private) for name, part in parts.items()}


def _versions() -> dict[str, Any]:
    found = {"tool": tool(), "python": platform.python_version(), "rules": _picked(rules_provenance(), "rules")}
    return found | {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _machine(terminal: Terminal) -> dict[str, Any]:
    found = load.examine(terminal.remark)
    kernels = Path(found["machine"].pop("kernel_cache"))
    places = examine_places(os.environ, kernels)
    return {
        "machine": found["machine"],
        "kernels": found["kernels"],
        "refused": found["refused"],
        "gpus": len(found["gpus"]),
        "places_with_warnings": [place.use for place in places if place.warning],
    }


def _model(settings: Settings) -> dict[str, Any]:
    known, _ = source.described(settings)
    if known["name"] is None:
        return {"usable": False}
    path = Path(str(known["path"]))
    return {
        "usable": True,
        "demonstration": known["demonstration"],
        "weights": source.manifest_hash(path),
        "number_format": source.number_format(path),
    }


def _audit() -> dict[str, Any]:
    try:
        return as_record(verify())
    except AuditError:
        return {"readable": False}


def _read(place: str, no_input: bool) -> Mapping[str, Any]:
    try:
        record = json.loads(decode(read_input(place, no_input), "The result"))
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA_ID:
        raise RejectedError(
            f"This is no result: its schema is not {SCHEMA_ID}.", "Give what diagnose --json wrote.", stage="input"
        )
    return record


def _result(record: Mapping[str, Any]) -> dict[str, Any]:
    """Codes, hashes and numbers of a result; no text of the case and none of the model's."""
    checks = _table(record.get("checks"))
    made = _table(record.get("provenance"))
    try:
        found = list(fired(checks))
        skipped = [f"{entry['check']}:{entry['reason']}" for entry in checks.get("not_run") or []]
    except (TypeError, KeyError, AttributeError):
        found, skipped = ["unreadable"], []
    return {
        **{key: _word(record.get(key)) for key in ("status", "run_id", "created", "urgency_final", "language")},
        "error": _word(_table(record.get("error")).get("code")),
        "degraded": _words(record.get("degraded")),
        "fired": _words(found),
        "not_run": _words(skipped),
        "provenance": {name: _picked(_table(made.get(name)), name) for name in _PROVENANCE},
    }


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _picked(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: _word(table.get(key)) for key in _PROVENANCE[name]}


def _words(values: Any) -> list[Any]:
    return [_word(value) for value in values] if isinstance(values, list) else []


def _word(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return value if isinstance(value, str) and _WORD.fullmatch(value) else "[left out]"


def _private_words() -> dict[str, str]:
    """What names the person: their home directory and account."""
    words = {str(Path.home()): "~", os.environ.get("HOME", ""): "~"}
    with contextlib.suppress(KeyError):
        words[pwd.getpwuid(os.getuid()).pw_name] = "[user]"
    return {word: instead for word, instead in words.items() if len(word) > 1}


def _scrubbed(value: Any, private: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _scrubbed(part, private) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_scrubbed(part, private) for part in value]
    if isinstance(value, str):
        for word, instead in private.items():
            value = re.sub(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", instead, value)
    return value


def _zipped(texts: Mapping[str, str]) -> bytes:
    """A zip whose entries carry no time: the same content makes the same bytes."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, text in texts.items():
            bundle.writestr(zipfile.ZipInfo(name), text)
    return held.getvalue()
