"""A large file written in parts from its start to its end: past the page cache, hashed on the way, and gone on with."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from runtime.pack_check import FileHashes
from runtime.pack_files import unwritable

Bytes = NDArray[np.uint8]


class PartsFile:
    """Writes one part while the next is made, and hashes both the part and the whole meanwhile.

    Every part is of whole pages. `wrote` is told bytes as they are in the file, `ended` the SHA-256 of each part.
    """

    def __init__(
        self, path: Path, buffer_bytes: int, wrote: Callable[[int], None], ended: Callable[[str], None]
    ) -> None:
        self._path, self._wrote, self._ended = path, wrote, ended
        self._file, self._is_direct = _opened(path)
        self._buffers = [np.frombuffer(mmap.mmap(-1, buffer_bytes), dtype=np.uint8) for _ in range(2)]
        self._pool = ThreadPoolExecutor(3)
        self._running: list[Future[Any]] = []
        self._written = 0
        self._ending: Any = None
        self._whole = hashlib.sha256()
        self._parts: list[str] = []
        self._offset = 0

    def recall(self, sizes: Iterable[int], checksums: Iterable[str]) -> int:
        """Reads back parts that were written before, and says how many are as they were."""
        for size, checksum in zip(sizes, checksums, strict=False):
            whole, part = self._whole.copy(), hashlib.sha256()
            if not self._read_back(size, whole, part) or part.hexdigest() != checksum:
                break
            self._whole = whole
            self._parts.append(checksum)
            self._offset += size
            self._wrote(size)
        return len(self._parts)

    def write(self, pieces: Iterable[Bytes]) -> None:
        """The next part."""
        part, filled = hashlib.sha256(), 0
        for whole_piece in pieces:
            piece = whole_piece
            while piece.size:
                if filled == self._buffers[0].size:
                    self._flush(part, filled)
                    filled = 0
                count = min(piece.size, self._buffers[0].size - filled)
                self._buffers[0][filled : filled + count] = piece[:count]
                piece, filled = piece[count:], filled + count
        self._flush(part, filled)
        self._ending = part

    def finish(self) -> FileHashes:
        """All parts, safely on the disk."""
        self._settle()
        try:
            os.truncate(self._file, self._offset)
            os.fsync(self._file)
        except OSError as error:
            raise unwritable(self._path, error) from error
        return FileHashes(self._whole.hexdigest(), tuple(self._parts), ())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()
        os.close(self._file)

    def _flush(self, part: Any, count: int) -> None:
        """Sends the filled buffer on its way, and takes the other."""
        self._settle()
        data = self._buffers[0][:count].data
        self._running = [
            self._pool.submit(self._whole.update, data),
            self._pool.submit(part.update, data),
            self._pool.submit(self._put, data, self._offset),
        ]
        self._written = count
        self._offset += count
        self._buffers.reverse()

    def _settle(self) -> None:
        """Waits for what is on its way."""
        for future in self._running:
            future.result()
        self._running.clear()
        self._wrote(self._written)
        self._written = 0
        if self._ending is not None:
            self._parts.append(self._ending.hexdigest())
            self._ending = None
            self._ended(self._parts[-1])

    def _put(self, data: memoryview, offset: int) -> None:
        try:
            while data:
                count = os.pwrite(self._file, data, offset)
                offset, data = offset + count, data[count:]
            if not self._is_direct:
                os.fdatasync(self._file)
                os.posix_fadvise(self._file, 0, offset, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise unwritable(self._path, error) from error

    def _read_back(self, size: int, *digests: Any) -> bool:
        """Whether the file has so many bytes more, which the digests take in."""
        start = self._offset
        while start < self._offset + size:
            buffer = self._buffers[0][: self._offset + size - start].data
            count = os.preadv(self._file, [buffer], start)
            if count == 0:
                return False
            for done in [self._pool.submit(digest.update, buffer[:count]) for digest in digests]:
                done.result()
            start += count
        return True


def _opened(path: Path) -> tuple[int, bool]:
    """The file, and whether it is read and written past the page cache, which not every file system can do."""
    for flag in (os.O_DIRECT, 0):
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | flag, 0o644), flag != 0
        except OSError as error:
            if flag == 0 or error.errno != errno.EINVAL:
                raise unwritable(path, error) from error
    raise AssertionError
