"""Checking the audit log: every line against its seal, its number and the line before; the end against the head."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from antangel_cli.clinic.audit import (
    LONGEST_LINE,
    START,
    AuditError,
    Head,
    head_file,
    is_sealed,
    key,
    line_hash,
    log_file,
    parsed,
    read_head,
)

FOUND = {
    "not_ours": ("was edited, or not written under this machine's key", "被改动，或并非以本机密钥写入"),
    "gap": ("does not follow the line before it: lines were removed or replaced", "与上一行不相接：有行被删除或替换"),
    "out_of_order": ("is older than the line before it: lines were moved or repeated", "比上一行更早：行被移动或重复"),
    "head_lost": ("was written after the head had been lost or replaced", "写于日志头丢失或被替换之后"),
    "cut": ("is missing from the end", "在末尾缺失"),
    "added": ("stands behind the end", "位于末尾之后"),
    "head": ("the head is missing, damaged or under another key", "日志头缺失、损坏或属于另一密钥"),
    "torn": ("was being written when the process ended; the next run settles it", "写入时进程中断；下次运行会处理"),
}
"""What each finding means, in English and Chinese."""

BENIGN = ("torn",)
MOST_FINDINGS = 100
MOST_SEEN = 10_000


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was written. Lines of the file count from 1; `last` ends a range."""

    code: str
    line: int | None = None
    last: int | None = None

    @property
    def benign(self) -> bool:
        """Whether a process that was killed explains it."""
        return self.code in BENIGN

    def text(self, chinese: bool = False) -> str:
        """In words, with the place."""
        return f"{self._place(chinese)}{FOUND[self.code][chinese]}"

    def _place(self, chinese: bool) -> str:
        if self.line is None:
            return ""
        if self.last is None or self.last == self.line:
            return f"第 {self.line} 行" if chinese else f"line {self.line} "
        return f"第 {self.line}–{self.last} 行" if chinese else f"lines {self.line} to {self.last}: each "


@dataclass(frozen=True)
class Verified:
    """The outcome: how many lines, the hash of the last, what was found (the first 100)."""

    lines: int
    last: str
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing but a killed process's last line differs from what was written."""
        return all(finding.benign for finding in self.findings)


def verify() -> Verified:
    """Read the whole log once, a line at a time. Raises AuditError where it cannot be read."""
    secret = key()
    try:
        with log_file().open("rb") as log:
            fcntl.flock(log, fcntl.LOCK_SH)
            return _verified(log, secret)
    except FileNotFoundError:
        return _nothing(read_head(secret))
    except OSError as error:
        raise AuditError(f"{log_file()}: {error.strerror}") from None


def _nothing(head: Head | None) -> Verified:
    if head is not None and head.count:
        return Verified(0, START, (Finding("cut", 1, head.count),))
    return Verified(0, START, (Finding("head"),) if head is None and head_file().exists() else ())


def _verified(log: IO[bytes], secret: bytes) -> Verified:
    walk = _Walk(secret)
    for line in raw_lines(log):
        walk.take(line)
    findings = [*_merged(walk.findings), *_end(walk, read_head(secret))]
    return Verified(walk.lines, walk.last, tuple(findings[:MOST_FINDINGS]))


def raw_lines(log: IO[bytes]) -> Iterator[bytes]:
    """The lines with their ends; one longer than any of ours comes in pieces, none of which is sealed."""
    while line := log.readline(LONGEST_LINE):
        yield line


class _Walk:
    """The highest line so far (`number`, `last`) and how many lines behind it were not ours."""

    def __init__(self, secret: bytes) -> None:
        self.lines = 0
        self.number = 0
        self.last = START
        self.foreign = 0
        self.torn = b""
        self.findings: list[Finding] = []
        self._secret = secret

    def take(self, line: bytes) -> None:
        """Look at the next line."""
        self.lines += 1
        if not line.endswith(b"\n") and len(line) < LONGEST_LINE:
            self.torn = line
            return
        content = parsed(line)
        if is_sealed(content, self._secret):
            self._place(content, line_hash(line))
        else:
            self.foreign += 1
            self._find("not_ours")

    def _place(self, content: dict[str, Any], digest: str) -> None:
        number = content["n"]
        if content.get("recovered") == "head_lost":
            self._find("head_lost")
        elif number <= self.number:
            self._find("out_of_order")
            return
        elif not self._follows(number, content["previous"]):
            self._find("gap")
        self.number, self.last, self.foreign = number, digest, 0

    def _follows(self, number: int, previous: str) -> bool:
        """Whether a line comes next. Lines that are not ours were put in, or are some of ours, edited."""
        if number == self.number + 1:
            return previous == self.last
        return number <= self.number + 1 + self.foreign

    def _find(self, code: str) -> None:
        if len(self.findings) < MOST_SEEN:
            self.findings.append(Finding(code, self.lines))


def _merged(findings: list[Finding]) -> Iterator[Finding]:
    """Neighbouring lines that are not ours, as one range."""
    run: Finding | None = None
    for finding in findings:
        if run and run.code == finding.code == "not_ours" and finding.line == (run.last or run.line or 0) + 1:
            run = Finding(run.code, run.line, finding.line)
            continue
        if run:
            yield run
        run = finding
    if run:
        yield run


def _end(walk: _Walk, head: Head | None) -> Iterator[Finding]:
    """The end of the log against its head."""
    if head is None:
        yield Finding("head")
    elif head.pending and walk.last == head.pending[0]:
        yield Finding("torn", walk.lines)
    else:
        if walk.torn:
            yield Finding("torn" if _announced(walk, head) else "not_ours", walk.lines)
        seen = walk.number + walk.foreign
        if seen < head.count:
            yield Finding("cut", seen + 1, head.count)
        elif walk.number > head.count:
            yield Finding("added", walk.lines)


def _announced(walk: _Walk, head: Head) -> bool:
    """Whether the line that is not whole is the start of the one that the head announces."""
    return head.pending is not None and walk.last == head.last and len(walk.torn) < head.pending[1]
