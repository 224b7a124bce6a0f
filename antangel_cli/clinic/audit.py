"""The audit log: one line for each answer or refusal, each bound to the line before it.

`audit.jsonl` holds JSON lines. A line names its number `n`, the SHA-256 of the line before (`previous`), and an HMAC
of all of it under the local key (`mac`), so that nobody without the key writes a line. `audit.head` holds, under the
same key, how many lines there are, how many bytes, and the hash of the last: a tail that was cut shows.

A line is written in three steps, each on disk before the next: the head announces the line (`pending`), the line is
appended, the head counts it. A process killed in between leaves at most one announced line, whole, in part or
not at all, and the next append settles it and says so (`recovered`). Whatever else differs from the head was not done
by this tool, and is never repaired: the next line is bound to what the head remembers, so that the gap stays.

Whoever has the key and both files can replace all of it by an older state: `verify` prints the count and the last hash
to be noted elsewhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import pwd
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from antangel_cli.clinic.provenance import local_key
from antangel_cli.places import home, private

START = hashlib.sha256(b"antangel.audit/1").hexdigest()
"""What the first line names as the line before it."""

LONGEST_LINE = 1 << 16


class AuditError(Exception):
    """The log cannot be written or read. `reason` names no content."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Entry:
    """What a line says. Hashes, identifiers of rules and codes: nothing of a case, nothing of an answer."""

    command: str
    exit_code: int
    run_id: str | None = None
    input_hmac: str | None = None
    output_hash: str | None = None
    model_hash: str | None = None
    system_hmac: str | None = None
    rules_version: str | None = None
    urgency: str | None = None
    fired: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()


@dataclass(frozen=True)
class Head:
    """How far the log goes: lines, bytes, hash of the last line; `pending` is the announced line's hash and bytes."""

    count: int = 0
    size: int = 0
    last: str = START
    pending: tuple[str, int] | None = None


def log_file() -> Path:
    """Where the log lies: `$XDG_STATE_HOME/antangel/audit.jsonl`."""
    return home("state") / "audit.jsonl"


def head_file() -> Path:
    """Where its head lies."""
    return home("state") / "audit.head"


def append(entry: Entry) -> None:
    """Add one line, in a time that does not depend on the log's length; other processes wait. Raises AuditError."""
    try:
        with _locked() as log:
            _append(log, entry, key())
    except OSError as error:
        raise AuditError(f"{log_file()}: {error.strerror}") from None


def require_writable() -> None:
    """Raise AuditError where a line could not be added."""
    try:
        with _locked():
            key()
    except OSError as error:
        raise AuditError(f"{log_file()}: {error.strerror}") from None


def key() -> bytes:
    """The local key. Raises AuditError where there is none."""
    found = local_key()
    if found is None:
        raise AuditError(f"{home('state') / 'key'} cannot be read or made")
    return found


@contextlib.contextmanager
def _locked() -> Iterator[IO[bytes]]:
    """The log, open for reading and appending, ours alone until the end."""
    private(log_file().parent)
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(log_file(), flags, 0o600), "r+b", buffering=0) as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        yield log


def _append(log: IO[bytes], entry: Entry, secret: bytes) -> None:
    head, recovered = _settled(log, secret)
    _end_line(log)
    line = _sealed(entry, head, recovered, secret)
    announced = Head(head.count, head.size, head.last, (line_hash(line), len(line)))
    _write_head(announced, secret)
    log.write(line)
    os.fsync(log.fileno())
    _write_head(Head(head.count + 1, os.fstat(log.fileno()).st_size, line_hash(line)), secret)


def _settled(log: IO[bytes], secret: bytes) -> tuple[Head, str | None]:
    """The head to go on from, and what had to be settled before."""
    head = read_head(secret)
    size = os.fstat(log.fileno()).st_size
    if head is None:
        return (Head(), None) if size == 0 and not head_file().exists() else (_without_head(log, size), "head_lost")
    if head.pending is None:
        return head, None
    return _settle_pending(log, head, head.pending, size)


def _settle_pending(log: IO[bytes], head: Head, pending: tuple[str, int], size: int) -> tuple[Head, str | None]:
    digest, length = pending
    if size == head.size:
        return Head(head.count, head.size, head.last), "line_not_written"
    if size == head.size + length and line_hash(os.pread(log.fileno(), length, head.size)) == digest:
        return Head(head.count + 1, size, digest), "line_not_counted"
    if head.size < size < head.size + length:
        os.ftruncate(log.fileno(), head.size)
        return Head(head.count, head.size, head.last), "line_torn"
    return Head(head.count, head.size, head.last), None


def _without_head(log: IO[bytes], size: int) -> Head:
    """Go on behind the last line that is there; that the head was lost is written into the next."""
    tail = os.pread(log.fileno(), LONGEST_LINE, max(0, size - LONGEST_LINE))
    lines = tail.splitlines(keepends=True)
    number = parsed(lines[-1]).get("n") if lines else 0
    return Head(number, size, line_hash(lines[-1])) if isinstance(number, int) and lines else Head(0, size)


def _end_line(log: IO[bytes]) -> None:
    """Close a line that somebody else left open: ours would be read as a part of it."""
    size = os.fstat(log.fileno()).st_size
    if size and os.pread(log.fileno(), 1, size - 1) != b"\n":
        log.write(b"\n")


def _sealed(entry: Entry, head: Head, recovered: str | None, secret: bytes) -> bytes:
    content: dict[str, Any] = {
        "n": head.count + 1,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "user": _user(),
        **asdict(entry),
        "previous": head.last,
    }
    if recovered is not None:
        content["recovered"] = recovered
    return _dumped(content | {"mac": mac(content, secret)})


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _dumped(content: dict[str, Any]) -> bytes:
    return f"{json.dumps(content, ensure_ascii=True, separators=(',', ':'))}\n".encode()


def parsed(line: bytes) -> dict[str, Any]:
    """The content of a line; empty where it is none, or not written as we write it: a key twice, a space more."""
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(line)
        if isinstance(content, dict) and _dumped(content) == line:
            return content
    return {}


def line_hash(line: bytes) -> str:
    """What the next line and the head call this one."""
    return hashlib.sha256(line).hexdigest()


def mac(content: dict[str, Any], secret: bytes) -> str:
    """The HMAC-SHA256 of a line or a head without its own `mac`."""
    bare = {name: value for name, value in content.items() if name != "mac"}
    return hmac.new(secret, _dumped(bare), hashlib.sha256).hexdigest()


def is_sealed(content: dict[str, Any], secret: bytes) -> bool:
    """Whether a line or a head was written under this key and is as it was written."""
    found = content.get("mac")
    return isinstance(found, str) and hmac.compare_digest(found.encode(), mac(content, secret).encode())


def read_head(secret: bytes) -> Head | None:
    """The head; None where it is missing, damaged, or under another key."""
    try:
        content = parsed(head_file().read_bytes())
    except OSError:
        return None
    if not is_sealed(content, secret):
        return None
    pending = content["pending"]
    return Head(content["count"], content["size"], content["last"], tuple(pending) if pending else None)


def _write_head(head: Head, secret: bytes) -> None:
    """Replace the head as a whole."""
    content = asdict(head)
    aside = head_file().with_name(f".audit.head.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(_dumped(content | {"mac": mac(content, secret)}))
            file.flush()
            os.fsync(file.fileno())
        aside.replace(head_file())
    finally:
        aside.unlink(missing_ok=True)
