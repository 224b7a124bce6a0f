"""The files of a pack while it is written: bytes at any place by any thread, and safely on the disk at the end."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from torch import Tensor

from runtime.errors import CapacityError
from runtime.pack_manifest import DENSE, EXPERTS, MANIFEST, Manifest
from runtime.pack_plan import PackPlan
from runtime.pack_tasks import Task


class PackFiles:
    """Both large files, open for writing at any place by any thread."""

    def __init__(self, directory: Path, plan: PackPlan, *, fresh: bool) -> None:
        self.directory = directory
        self._open: dict[str, int] = {}
        for name, size in ((DENSE, plan.dense_bytes), (EXPERTS, plan.experts.nbytes)):
            try:
                self._open[name] = os.open(directory / name, os.O_RDWR | os.O_CREAT, 0o644)
                if fresh:
                    os.truncate(self._open[name], 0)
                os.truncate(self._open[name], size)
            except OSError as error:
                raise unwritable(directory / name, error) from error

    def write(self, name: str, offset: int, data: Tensor) -> None:
        view = data.numpy().data
        try:
            while view:
                count = os.pwrite(self._open[name], view, offset)
                offset, view = offset + count, view[count:]
        except OSError as error:
            raise unwritable(self.directory / name, error) from error

    def checksum(self, task: Task) -> str:
        """Of the bytes that are in the file where the task's belong."""
        digest = hashlib.sha256()
        for start, stop in task.ranges:
            digest.update(os.pread(self._open[task.file], stop - start, start))
        return digest.hexdigest()

    def sync(self) -> None:
        """To the disk, and out of the page cache, so that what is read back comes from the disk."""
        for name, file in self._open.items():
            try:
                os.fsync(file)
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            except OSError as error:
                raise unwritable(self.directory / name, error) from error

    def __enter__(self) -> PackFiles:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._open.values():
            os.close(file)


def unwritable(path: Path, error: OSError) -> CapacityError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CapacityError(
            f"{path} cannot be written: the disk is full", "Free some space and run again: it resumes."
        )
    return CapacityError(f"{path} cannot be written: {error.strerror}", "Put it right and run again: it resumes.")


def finish_pack(directory: Path, manifest: Manifest) -> None:
    """Writes the manifest, aside and then renamed: with it a directory becomes a pack. Raises CapacityError."""
    part = directory / f"{MANIFEST}.part"
    try:
        write_text(part, manifest.to_json())
        part.rename(directory / MANIFEST)
        sync(directory)
    except OSError as error:
        raise unwritable(part, error) from error


def write_text(path: Path, text: str) -> None:
    """A small file, to the disk."""
    path.write_text(text, encoding="utf-8")
    sync(path)


def sync(path: Path) -> None:
    """A file or directory, to the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
