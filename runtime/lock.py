"""One process per model: a lock on the model's own file, and who holds it. Nothing is ever written."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import pwd
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from runtime.errors import BusyError
from runtime.pack_manifest import MANIFEST

PROC = Path("/proc")
UNKNOWN = "another process"

# The command that follows the program's name. What stands behind it may be a patient's words.
_PROGRAMS = ("antangel", "antangel_cli")
_COMMAND = re.compile(r"[a-z]{2,12}\Z")


@dataclass(frozen=True)
class FileId:
    """A file, whatever it is called: links and copies of its path are the same file."""

    device: int
    inode: int

    @classmethod
    def of(cls, descriptor: int) -> Self:
        found = os.fstat(descriptor)
        return cls(found.st_dev, found.st_ino)

    @property
    def in_proc(self) -> str:
        """As /proc/locks writes it, proc_locks(5)."""
        return f"{os.major(self.device):02x}:{os.minor(self.device):02x}:{self.inode}"


# The descriptors by which this process holds a model. They are duplicates, and the lock ends with the last of them.
_held: dict[FileId, list[int]] = {}


class ModelLock:
    """A model held by this process; close() lets go of it, and so does the end of the process, however it ends.

    A process that opens a model twice holds it until both are closed. The lock is flock(2), exclusive and advisory.
    """

    def __init__(self, file: FileId | None = None, descriptor: int = -1) -> None:
        self._file = file
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: str | Path, *, wait: bool = False, announce: Callable[[str], None] | None = None) -> Self:
        """Locks a pack or a checkpoint directory. Raises BusyError where another process has it, unless told to wait.

        `announce` is told who is waited for, and when the file system has no locks: then nothing is held.
        """
        path, tell = Path(path), announce or (lambda line: None)
        try:
            descriptor = os.open(_lock_file(path), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return cls()  # Loading the model says what is wrong with it.
        file = FileId.of(descriptor)
        if file in _held:
            os.close(descriptor)
            return cls._keep(file, os.dup(_held[file][0]))
        locked = False
        try:
            locked = _lock(descriptor, file, path, wait, tell)
        finally:
            if not locked:
                os.close(descriptor)
        return cls._keep(file, descriptor) if locked else cls()

    @classmethod
    def _keep(cls, file: FileId, descriptor: int) -> Self:
        _held.setdefault(file, []).append(descriptor)
        return cls(file, descriptor)

    @property
    def holds(self) -> bool:
        return self._file is not None

    def close(self) -> None:
        """Lets go; a second time does nothing."""
        if self._file is None:
            return
        _held[self._file].remove(self._descriptor)
        if not _held[self._file]:
            del _held[self._file]
        os.close(self._descriptor)
        self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lock_file(directory: Path) -> Path:
    """The file that is the model's own, as a pack or as a checkpoint."""
    manifest = directory / MANIFEST
    return manifest if manifest.is_file() else directory / "config.json"


def _lock(descriptor: int, file: FileId, path: Path, wait: bool, tell: Callable[[str], None]) -> bool:
    """Whether it is locked: False where the file system refuses. Raises BusyError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = holder_of(file)
        if not wait:
            raise BusyError(f"{path} is in use by {holder}", "Wait until it ends, or stop it.", holder=holder) from None
        tell(f"Waiting for {path}, which is in use by {holder}.")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        tell(f"{path} cannot be locked ({error.strerror}): do not use it from two processes at once.")
        return False
    return True


def holder_of(file: FileId) -> str:
    """Who holds a file's lock: process, user, start and command; "another process" where that cannot be known."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (PROC / "locks").read_text(encoding="ascii").splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5] == file.in_proc:
                return _described(int(fields[4]))
    return UNKNOWN


def _described(pid: int) -> str:
    """Raises OSError where there is no such process: it may live in another container."""
    status = (PROC / str(pid)).stat()
    facts = [f"process {pid}", f"user {_user(status.st_uid)}", f"since {_started(pid)}"]
    return ", ".join(facts) + f": {_command(pid)}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _started(pid: int) -> str:
    """Local time; field 22 of /proc/PID/stat counts clock ticks since the machine started, proc_pid_stat(5)."""
    ticks = int((PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19])
    lines = (PROC / "stat").read_text(encoding="ascii").splitlines()
    booted = next(int(line.split()[1]) for line in lines if line.startswith("btime"))
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(booted + ticks / os.sysconf("SC_CLK_TCK")))


def _command(pid: int) -> str:
    """The program and, of ours, the command: never an argument."""
    words = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    for word, following in itertools.pairwise(words[:4]):
        name = Path(word).parent.name if word.endswith("/__main__.py") else Path(word).name
        if name in _PROGRAMS:
            return f"antangel {following}" if _COMMAND.match(following) else "antangel"
    return Path(words[0]).name or UNKNOWN
