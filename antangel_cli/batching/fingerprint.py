"""Fingerprints: what a line of output was made of, so that a run can go on where another ended.

A fingerprint has a part for each thing that a result depends on. Its parts are HMACs under a key: the local one, or
that of a file which machines share. Without the key they say nothing about the case.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from antangel_cli.clinic.diagnose import DiagnoseOptions
from antangel_cli.clinic.model import Model
from antangel_cli.clinic.prompt import load_prompt
from antangel_cli.clinic.provenance import local_key, options_record
from antangel_cli.clinic.result import schema_hash
from antangel_cli.clinic.rules import rules_provenance
from antangel_cli.errors import UsageError

Fingerprint = dict[str, str]

FEWEST_KEY_BYTES, MOST_KEY_BYTES = 16, 4096
SETTING_CHARS, INPUT_CHARS = 16, 32
"""Hexadecimal digits kept of each part."""
_MACHINE = ("backend", "device")
_NOT_IN_RESULT = ("sampling", "timeout_s")
"""Options that are a part of their own, or that decide whether there is a result and not what it says."""


@dataclass(frozen=True)
class Fingerprints:
    """Makes the fingerprints of one run; `options` are named when they differ from an earlier run's."""

    key: bytes = field(repr=False)
    settings: Mapping[str, str]
    options: Mapping[str, Any]

    @classmethod
    def of(cls, key: bytes, asked: DiagnoseOptions, model: Model) -> Fingerprints:
        """Those of a run with these options and this model."""
        options = {k: v for k, v in options_record(asked, model.context).items() if k not in _NOT_IN_RESULT}
        parts = {
            "key": "antangel.fingerprint/1",
            "model": {k: v for k, v in model.provenance.items() if k not in _MACHINE}
            | {"name": model.name, "demonstration": model.demonstration},
            "prompt": [load_prompt(task, chinese).hash for task in ("diagnose", "ask") for chinese in (False, True)],
            "schema": schema_hash(asked.max_dx),
            "rules": rules_provenance(),
            "sampling": vars(asked.sampling),
            "options": options,
        }
        return cls(key, {name: _mac(key, canonical(part))[:SETTING_CHARS] for name, part in parts.items()}, options)

    def fingerprint(self, text: str | bytes) -> Fingerprint:
        """That of one input under the run's settings."""
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        return {**self.settings, "input": _mac(self.key, data)[:INPUT_CHARS]}

    def changed(self, record: Mapping[str, Any]) -> list[str]:
        """What of the settings is not as it was when a record was made, by name; empty: all is."""
        made = record.get("fingerprint")
        if not isinstance(made, dict):
            return ["no fingerprint"]
        if made.get("key") != self.settings["key"]:
            return ["the key of the fingerprints"]
        names = [name for name, value in self.settings.items() if made.get(name) != value]
        return [f"options ({', '.join(self._options(record))})" if name == "options" else name for name in names]

    def _options(self, record: Mapping[str, Any]) -> list[str]:
        old = (record.get("provenance") or {}).get("options") or {}
        return [name for name, value in self.options.items() if old.get(name) != value] or ["not recorded"]


def canonical(content: Any) -> bytes:
    """JSON that is the same for the same content."""
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def read_key(place: str | None) -> bytes | None:
    """The key in a file, or the local one, None if that cannot be kept. Raises UsageError."""
    if place is None:
        return local_key()
    try:
        with Path(place).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(MOST_KEY_BYTES + 1)
    except OSError as error:
        remedy = "Make one: umask 077; head -c 32 /dev/urandom > KEY"
        raise UsageError(f"The key {place} cannot be read: {error.strerror}.", remedy) from None
    if stat.S_ISREG(mode) and mode & 0o077:
        raise UsageError(f"Others can read the key {place}.", f"chmod 600 {place}")
    if not FEWEST_KEY_BYTES <= len(key) <= MOST_KEY_BYTES:
        raise UsageError(f"The key {place} has not {FEWEST_KEY_BYTES} to {MOST_KEY_BYTES} bytes.", "Make a new one.")
    return key


def _mac(key: bytes, data: bytes) -> str:
    return hmac.new(key, data, hashlib.sha256).hexdigest()
