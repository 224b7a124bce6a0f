"""The audit log as commands use it: one line for each answer, and one for a run that ended without any."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import Iterator, Mapping
from typing import Any

from antangel_cli.cases import Checked
from antangel_cli.clinic.audit import AuditError, Entry, append, key, require_writable
from antangel_cli.clinic.model import Model
from antangel_cli.clinic.provenance import input_hmac
from antangel_cli.clinic.rules import rules_provenance
from antangel_cli.errors import BROKEN_PIPE, INTERRUPTED, PolicyError
from antangel_cli.options import CaseOptions, ChatOptions
from antangel_cli.outcome import OutputClosedError, describe
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal

Options = CaseOptions | ChatOptions

OVERRIDING = ("accept_implausible", "doses", "redact")
"""The flags that set a check aside, or show what is withheld otherwise."""

_FOUND = ("allergy_conflicts", "pregnancy_conflicts", "injection_suspected", "set_aside", "implausible_accepted")


class Audit:
    """Writes the lines of one run. Where it cannot: a warning, once, or PolicyError where the log is required."""

    def __init__(self, settings: Settings, terminal: Terminal, command: str, options: Options | None = None) -> None:
        self.written = 0
        self._required = settings.audit_required
        self._terminal = terminal
        self._command = command
        self._overridden = tuple(name for name in OVERRIDING if getattr(options, name, False))
        self._warned = False

    def require(self) -> None:
        """Refuse the run, before any answer, where the log is required and cannot be written. Raises PolicyError."""
        if self._required:
            try:
                require_writable()
            except AuditError as error:
                raise _refusal(error) from None

    def result(self, record: Mapping[str, Any], output: str, exit_code: int) -> None:
        """The line of a result of `diagnose` or `batch`; `output` is what was written of it, hashed as it stands."""
        made = record.get("provenance") or {}
        self.write(
            exit_code,
            run_id=record.get("run_id"),
            input_hmac=made.get("input_hmac"),
            output_hash=_hash(output),
            model_hash=made.get("model", {}).get("weights"),
            urgency=record.get("urgency_final"),
            fired=fired(record.get("checks") or {}),
        )

    def checked(self, found: Checked | None, output: str, exit_code: int) -> None:
        """The line of a file that `validate` read, or could not read (None), without a model."""
        said = {"input_hmac": input_hmac(found.case), "fired": fired(found.checks.to_json())} if found else {}
        self.write(exit_code, output_hash=_hash(output) if output else None, **said)

    def reply(
        self, question: str, output: str, model: Model, checks: Mapping[str, Any], system: str | None = None
    ) -> None:
        """The line of one reply in free text; `system` is what was added to the instructions."""
        self.write(
            0,
            input_hmac=_keyed(question),
            output_hash=_hash(output),
            model_hash=model.provenance.get("weights"),
            system_hmac=_keyed(system) if system else None,
            fired=fired(checks),
        )

    def write(self, exit_code: int, **said: Any) -> None:
        """Add a line."""
        version = str(rules_provenance()["version"])
        entry = Entry(self._command, exit_code, rules_version=version, overridden=self._overridden, **said)
        self.written += 1
        try:
            append(entry)
        except AuditError as error:
            self._failed(error)

    def _failed(self, error: AuditError) -> None:
        if self._required:
            raise _refusal(error) from None
        if not self._warned:
            self._terminal.note(f"Warning: the audit log is not written: {error.reason}.")
        self._warned = True


@contextlib.contextmanager
def audited(settings: Settings, terminal: Terminal, command: str, options: Options | None = None) -> Iterator[Audit]:
    """The audit of one run: what ends it early leaves a line with the exit code. Raises PolicyError."""
    audit = Audit(settings, terminal, command, options)
    audit.require()
    try:
        yield audit
    except BaseException as error:
        if not audit.written:
            audit.write(_exit_code(error))
        raise


def fired(checks: Mapping[str, Any]) -> tuple[str, ...]:
    """The checks that found something, by name: identifiers of rules and bands, no word of the case."""
    flags = [f"red_flag:{flag['rule']}" for flag in checks.get("rule_red_flags") or []]
    score, child = checks.get("news2"), checks.get("paediatric")
    warned = sorted({f"input:{warning['code']}" for warning in checks.get("input_warnings") or []})
    return (
        *flags,
        *([f"news2:{score['band']}"] if score else []),
        *([f"paediatric:{child['band']}"] if child and child["out_of_range"] else []),
        *(name for name in _FOUND if checks.get(name)),
        *warned,
    )


def _refusal(error: AuditError) -> PolicyError:
    return PolicyError(
        f"The policy requires the audit log, and it cannot be written: {error.reason}.",
        "Make it writable, or ask whoever keeps /etc/antangel/config.toml.",
        code="audit",
    )


def _exit_code(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, (OutputClosedError, BrokenPipeError)):
        return BROKEN_PIPE
    return describe(error).exit_code if isinstance(error, Exception) else INTERRUPTED


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _keyed(text: str) -> str | None:
    """The HMAC of what somebody wrote: a plain hash of a short text could be guessed."""
    try:
        return hmac.new(key(), text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
    except AuditError:
        return None
