"""Whether the bytes of a pack are those that were written: hashes of files, of their parts, and zeros between."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from runtime.errors import PROBLEMS_SHOWN, CheckpointError
from runtime.pack import Pack
from runtime.pack_layout import DenseEntry, ExpertGeometry, Range
from runtime.pack_manifest import DENSE, EXPERTS, PACK_AGAIN, FileEntry, Manifest

# Told bytes done, and bytes in all.
Progress = Callable[[int, int], None]

PIECE = 4 << 20
TOLD_EVERY_S = 0.2


@dataclass(frozen=True)
class Part:
    """A dense entry or a blob: its range in a file, and where it is padding, counted from its start."""

    name: str
    start: int
    stop: int
    gaps: tuple[Range, ...]


@dataclass(frozen=True)
class FileHashes:
    """SHA-256 of a file and of each of its parts, and the parts whose padding is not all 0."""

    whole: str
    parts: tuple[str, ...]
    unclean: tuple[str, ...]


def file_parts(dense: Iterable[DenseEntry], experts: ExpertGeometry) -> dict[str, list[Part]]:
    """The parts of both large files, which cover them from end to end."""
    size, gaps = experts.blob_bytes, tuple(experts.blob_gaps())
    blobs = range(experts.blobs)
    return {
        DENSE: [Part(entry.name, entry.offset, entry.end, tuple(entry.gaps())) for entry in dense],
        EXPERTS: [Part(experts.named(blob), blob * size, (blob + 1) * size, gaps) for blob in blobs],
    }


def check_pack(directory: str | Path, progress: Progress | None = None) -> Manifest:
    """Reads a pack to its last byte. Raises CheckpointError that names every file and part that is not as written."""
    directory = Path(directory)
    manifest = Pack.open(directory).manifest
    hashes = hash_files(directory, file_parts(manifest.dense, manifest.experts), progress)
    problems: list[str] = []
    for name, file in manifest.files.items():
        if name in hashes:
            problems += _part_problems(name, file, hashes[name], manifest)
        elif file_hash(directory / name) != file.sha256:
            problems.append(f"{name} is not as it was written")
    if problems:
        shown = problems[:PROBLEMS_SHOWN] + ["and more"] * (len(problems) > PROBLEMS_SHOWN)
        raise CheckpointError(f"{directory} is damaged: " + "; ".join(shown), PACK_AGAIN)
    return manifest


def _part_problems(name: str, file: FileEntry, found: FileHashes, manifest: Manifest) -> list[str]:
    parts = file_parts(manifest.dense, manifest.experts)[name]
    pairs = zip(parts, found.parts, manifest.checksums[name], strict=True)
    problems = [f"{name}, {part.name}: the bytes are not those written" for part, is_, was in pairs if is_ != was]
    problems += [f"{name}, {part}: its padding is not all 0" for part in found.unclean]
    return problems or ([] if found.whole == file.sha256 else [f"{name} is not as it was written"])


def file_hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}", PACK_AGAIN) from error


def hash_files(
    directory: Path, parts: dict[str, list[Part]], progress: Progress | None = None
) -> dict[str, FileHashes]:
    """Hashes files on two threads, one for each whole and one for its parts. Raises CheckpointError."""
    total = sum(part.stop - part.start for each in parts.values() for part in each)
    reader = _Reader(directory)
    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(lambda: {name: reader.whole(name, each) for name, each in parts.items()})
        apart = pool.submit(lambda: {name: reader.apart(name, each) for name, each in parts.items()})
        try:
            _tell((whole, apart), reader, total, progress)
        except BaseException:
            reader.stopped.set()
            raise
    return {name: FileHashes(whole.result()[name], *apart.result()[name]) for name in parts}


def _tell(futures: Sequence[Future[Any]], reader: _Reader, total: int, progress: Progress | None) -> None:
    """Waits for both, and fails with the first that does."""
    while True:
        done, waiting = wait(futures, timeout=TOLD_EVERY_S)
        for future in done:
            future.result()
        if progress is not None:
            progress(reader.done // 2, total)
        if not waiting:
            return


class _Reader:
    """Reads files in pieces, and counts the bytes of both threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self.done = 0
        self.stopped = threading.Event()

    def whole(self, name: str, parts: Sequence[Part]) -> str:
        path = self._directory / name
        with path.open("rb", buffering=0) as file:
            return self._digest(file, path, 0, parts[-1].stop if parts else 0)

    def apart(self, name: str, parts: Sequence[Part]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        path = self._directory / name
        with path.open("rb", buffering=0) as file:
            hashes = tuple(self._digest(file, path, part.start, part.stop) for part in parts)
            return hashes, tuple(part.name for part in parts if not _is_clean(file, part))

    def _digest(self, file: IO[bytes], path: Path, start: int, stop: int) -> str:
        digest, buffer = hashlib.sha256(), memoryview(bytearray(PIECE))
        while start < stop and not self.stopped.is_set():
            try:
                count = os.preadv(file.fileno(), [buffer[: min(PIECE, stop - start)]], start)
            except OSError as error:
                raise CheckpointError(f"{path} cannot be read: {error}", PACK_AGAIN) from error
            if count == 0:
                raise CheckpointError(f"{path} ends at byte {start}", PACK_AGAIN)
            digest.update(buffer[:count])
            start += count
            with self._lock:
                self.done += count
        return digest.hexdigest()


def _is_clean(file: IO[bytes], part: Part) -> bool:
    return not any(any(os.pread(file.fileno(), stop - start, part.start + start)) for start, stop in part.gaps)
