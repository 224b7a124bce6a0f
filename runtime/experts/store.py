"""All experts of a pack at rest: blobs of one size in a file, read past the page cache, checked on arrival."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kernels.registry import Announce
from runtime.errors import ExpertReadError
from runtime.pack_layout import ExpertGeometry

VERIFY = "Check the pack with antangel pack --check, and pack the checkpoint again if it is damaged."


class ExpertStore:
    """The file of experts, by number: layer by layer, expert by expert.

    Reads go around the page cache, which would hold a second copy of what has a slot; where the file system refuses
    that, `announce` is told and pages are given back after each read. Blobs may be read by many threads at once.
    """

    def __init__(
        self, path: Path, geometry: ExpertGeometry, checksums: Sequence[str], announce: Announce | None = None
    ) -> None:
        self.path = path
        self.geometry = geometry
        self._checksums = checksums
        self._verified = np.zeros(geometry.blobs, dtype=np.bool_)
        self._file, self.is_direct = self._open(announce)

    @property
    def verified(self) -> int:
        """How many experts have been compared with their checksums."""
        return int(self._verified.sum())

    def read(self, blob: int, place: memoryview) -> None:
        """Fills `place`, of one blob's size and at a page's start. Raises ExpertReadError."""
        start = blob * self.geometry.blob_bytes
        self._fill(blob, place, start)
        if not self.is_direct:
            os.posix_fadvise(self._file, start, len(place), os.POSIX_FADV_DONTNEED)
        if not self._verified[blob]:
            self._verify(blob, place, start)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self, announce: Announce | None) -> tuple[int, bool]:
        direct = getattr(os, "O_DIRECT", 0)
        if direct:
            with contextlib.suppress(OSError):
                return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | direct), True
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ExpertReadError(f"{self.path} cannot be opened: {error.strerror}", VERIFY) from error
        if announce is not None:
            announce(f"{self.path} is read through the page cache, which takes memory: its file system has no O_DIRECT")
        return file, False

    def _fill(self, blob: int, place: memoryview, start: int) -> None:
        done = 0
        while done < len(place):
            try:
                count = os.preadv(self._file, [place[done:]], start + done)
            except OSError as error:
                raise self._error(blob, start + done, str(error.strerror)) from error
            if count == 0:
                raise self._error(blob, start + done, f"the file ends, and {len(place) - done:,} bytes are missing")
            done += count

    def _verify(self, blob: int, place: memoryview, start: int) -> None:
        if hashlib.sha256(place).hexdigest() != self._checksums[blob]:
            raise self._error(blob, start, "its bytes are not those that were packed")
        self._verified[blob] = True

    def _error(self, blob: int, offset: int, problem: str) -> ExpertReadError:
        return ExpertReadError(f"{self.geometry.named(blob)} in {self.path} at byte {offset:,}: {problem}", VERIFY)
