"""Provenance: what made a result, so that it can be traced and told from another."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antangel_cli import ROOT, __version__
from antangel_cli.clinic.budget import Budget
from antangel_cli.clinic.case import Case
from antangel_cli.clinic.model import Model, Sampling
from antangel_cli.clinic.result import SCHEMA_ID, schema_hash
from antangel_cli.clinic.rules import rules_provenance
from antangel_cli.places import home, private

if TYPE_CHECKING:
    from antangel_cli.clinic.diagnose import DiagnoseOptions, DiagnoseRun

KEY_BYTES = 32


@cache
def tool() -> dict[str, str | None]:
    """Our own name, version and, in a clone, commit."""
    return {"name": "antangel", "version": __version__, "commit": git_commit(ROOT / ".git")}


def git_commit(folder: Path) -> str | None:
    """The commit a repository's HEAD stands on, read without running git; None outside a clone."""
    with contextlib.suppress(OSError):
        head = (folder / "HEAD").read_text(encoding="ascii").strip()
        if not head.startswith("ref: "):
            return head or None
        return _resolve(folder, head.removeprefix("ref: "))
    return None


def _resolve(folder: Path, reference: str) -> str | None:
    with contextlib.suppress(OSError):
        return (folder / reference).read_text(encoding="ascii").strip()
    with contextlib.suppress(OSError):
        for line in (folder / "packed-refs").read_text(encoding="ascii").splitlines():
            commit, _, name = line.partition(" ")
            if name == reference:
                return commit
    return None


def key_file() -> Path:
    """Where the local key lies: `$XDG_STATE_HOME/antangel/key`."""
    return home("state") / "key"


def local_key() -> bytes | None:
    """The local random key, made on first use, readable by its owner only; None when it cannot be kept."""
    path = key_file()
    with contextlib.suppress(OSError):
        private(path.parent)
        with contextlib.suppress(FileExistsError):
            _write_new(path, secrets.token_bytes(KEY_BYTES))
        key = path.read_bytes()
        return key if len(key) == KEY_BYTES else None
    return None


def _write_new(path: Path, key: bytes) -> None:
    """Write aside and link into place, so that no other process reads half a key."""
    aside = path.with_name(f".key.{os.getpid()}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key)
    try:
        os.link(aside, path)
    finally:
        aside.unlink()


def input_hmac(case: Case) -> str | None:
    """HMAC-SHA256 of the case without `gold` under the local key: elsewhere it means nothing."""
    key = local_key()
    if key is None:
        return None
    text = case.model_dump_json(by_alias=True, exclude={"gold"})
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def run_provenance(run: DiagnoseRun, model: Model) -> dict[str, Any]:
    """Everything a finished run's result depends on, and what it took: enough to run it again."""
    shown = run.shown
    attempts = [attempt for sample in run.samples for attempt in sample.attempts]
    starts = [attempt.first_s for attempt in attempts if attempt.first_s is not None]
    return {
        "tool": tool(),
        "model": {**model.provenance, "name": model.name, "demonstration": model.demonstration},
        "prompt": {"id": run.prompt.id, "version": run.prompt.version, "hash": run.prompt.hash},
        "schema": {"id": SCHEMA_ID, "hash": schema_hash(run.options.max_dx)},
        "rules": rules_provenance(),
        "sampling": sampling_record(shown.last.sampling, run.question.budget),
        "seed": run.options.sampling.seed,
        "sample": run.samples.index(shown),
        "attempts": len(shown.attempts),
        "options": options_record(run.options, model.context),
        "input_hmac": input_hmac(run.case),
        "tokens": {
            "prompt": run.question.budget.prompt,
            "reasoning": sum(attempt.tokens["text"] for attempt in attempts),
            "answer": sum(attempt.tokens["answer"] for attempt in attempts),
        },
        "reasoning_finish": shown.last.reasoning_finish,
        "timings": {
            "total_s": round(run.seconds, 3),
            "first_token_s": round(min(starts), 3) if starts else None,
        },
    }


def sampling_record(sampling: Sampling, budget: Budget) -> dict[str, Any]:
    """How both stages are sampled: the reasoning as asked, the answer always greedy."""
    return {
        "reasoning": {**vars(sampling), "max_tokens": budget.reasoning} if budget.reasoning else None,
        "answer": {
            "temperature": 0.0,
            "repetition_penalty": 1.0,
            "seed": sampling.seed,
            "max_tokens": budget.answer,
            "constrained": True,
        },
    }


def options_record(options: DiagnoseOptions, context: int) -> dict[str, Any]:
    """What was asked for, as far as the result depends on it; the sampling is that of the first try."""
    asked = {name: value for name, value in vars(options).items() if name != "sampling"}
    return {**asked, "sampling": dict(vars(options.sampling)), "context": context}
