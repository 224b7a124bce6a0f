"""Provenance: what made a result, so that it can be traced and told from another."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from functools import cache
from pathlib import Path
from typing import Any

from antangel_cli import ROOT, __version__
from antangel_cli.clinic.case import Case

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
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "antangel" / "key"


def local_key() -> bytes | None:
    """The local random key, made on first use, readable by its owner only; None when it cannot be kept."""
    path = key_file()
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
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


def sampling_record(sampling: Any, reasoning_tokens: int, answer_tokens: int) -> dict[str, Any]:
    """How both stages are sampled: the reasoning as asked, the answer always greedy."""
    return {
        "reasoning": {**vars(sampling), "max_tokens": reasoning_tokens} if reasoning_tokens else None,
        "answer": {
            "temperature": 0.0,
            "repetition_penalty": 1.0,
            "seed": sampling.seed,
            "max_tokens": answer_tokens,
            "constrained": True,
        },
    }
