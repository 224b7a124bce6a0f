"""Packing: a checkpoint of any source format becomes a pack, streamed, on all cores, and resumed when interrupted."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kernels.formats import Format, FormatError, QuantisationError
from runtime.errors import PROBLEMS_SHOWN, CapacityError, CheckpointError, OptionError, gib
from runtime.hardware import usable_cores
from runtime.pack import is_pack
from runtime.pack_check import FileHashes, Progress, check_pack, file_hash, file_parts, hash_files
from runtime.pack_files import PackFiles, finish_pack, sync, unwritable, write_text
from runtime.pack_journal import JOURNAL, Done, Journal
from runtime.pack_manifest import DENSE, EXPERTS, MANIFEST, PACK_VERSION, FileEntry, Manifest
from runtime.pack_plan import PackPlan, make_plan
from runtime.pack_tasks import Task, task_bytes, tasks
from runtime.sources.source import Source

# What is copied as it is, where there is one.
COPIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
CONFIG = "config.json"
OURS = {*COPIED, CONFIG, DENSE, EXPERTS, JOURNAL, MANIFEST, f"{MANIFEST}.part"}

# Room for the small files, the journal and the manifest.
SPARE = 64 << 20

EXPERTS_FORMAT = "w4a8:64"
DENSE_FORMAT = "w8a8:64"


# Threads that make tasks, each with up to 130 MB of its own; torch's small ops, which hold Python's lock, feed no more.
MOST_WORKERS = 8


class FormatChoiceError(OptionError):
    """A number format that does not exist, or that nothing can be packed in."""


@dataclass(frozen=True)
class Telling:
    """Whom packing tells what it does: bytes written, bytes verified, and a line for what is out of the ordinary."""

    packing: Progress | None = None
    verifying: Progress | None = None
    announce: Callable[[str], None] | None = None

    def say(self, line: str) -> None:
        if self.announce is not None:
            self.announce(line)


def write_pack(
    source: str | Path,
    directory: str | Path,
    *,
    experts: str = EXPERTS_FORMAT,
    dense: str = DENSE_FORMAT,
    telling: Telling = Telling(),
) -> Manifest:
    """Packs a checkpoint and verifies what was written; where the same pack is there already, verifies that.

    Raises CheckpointError (the source, or another thing at `directory`), FormatChoiceError, CapacityError (the
    disk), or OSError where the directory cannot be made. Whatever happens, no half pack opens.
    """
    formats = parse_format(experts), parse_format(dense)
    if is_pack(source):
        raise CheckpointError(f"{source} is a pack already", "Give the checkpoint that it was made from.")
    plan = make_plan(Source.open(source), *formats)
    directory = Path(directory).absolute()
    if is_pack(directory):
        return _there_already(directory, plan, telling)
    _make_room(directory)
    with Journal(directory / JOURNAL, _identity(plan)) as journal:
        if journal.started_anew:
            telling.say(f"{directory} holds the beginning of another pack: it is started anew.")
        manifest = _write(directory, plan, journal, telling)
    (directory / JOURNAL).unlink(missing_ok=True)
    return manifest


def parse_format(text: str) -> Format:
    """A format that matrices can be packed in. Raises FormatChoiceError."""
    try:
        format = Format.parse(text)
    except FormatError as error:
        raise FormatChoiceError(str(error), "See antangel pack -h.") from error
    if format.zeros:
        raise FormatChoiceError(
            f"{text} has zero points, which only int4 imports have", f"Use {replace(format, zeros=False)}."
        )
    return format


def _identity(plan: PackPlan) -> dict[str, Any]:
    """What a begun or finished pack must agree with to be gone on with; the source may have been moved."""
    source = {key: value for key, value in plan.source.identity.items() if key != "path"}
    return {"version": PACK_VERSION, "source": source, "requested": plan.requested}


def _there_already(directory: Path, plan: PackPlan, telling: Telling) -> Manifest:
    manifest = Manifest.read(directory)
    source = {key: value for key, value in manifest.source.items() if key != "path"}
    if {"version": PACK_VERSION, "source": source, "requested": dict(manifest.requested)} != _identity(plan):
        raise CheckpointError(
            f"{directory} is a pack of another checkpoint, or in other formats", "Remove it, or name another directory."
        )
    check_pack(directory, telling.verifying)
    (directory / JOURNAL).unlink(missing_ok=True)
    telling.say(f"{directory} is there already, and was verified.")
    return manifest


def _make_room(directory: Path) -> None:
    """The directory, with nothing in it but what an interrupted packing left."""
    directory.mkdir(parents=True, exist_ok=True)
    names = {path.name for path in directory.iterdir()}
    if names and (JOURNAL not in names or not names <= OURS):
        raise CheckpointError(
            f"{directory} holds other files, such as {min(names - OURS, default=min(names))}", "Name a new directory."
        )


def _write(directory: Path, plan: PackPlan, journal: Journal, telling: Telling) -> Manifest:
    work = tuple(tasks(plan))
    with PackFiles(directory, plan, fresh=not journal.done) as files:
        _drop_damaged(files, work, journal)
        left = [task for task in work if task.key not in journal.done]
        _require_space(directory, sum(map(task_bytes, left)))
        _copy_small_files(directory, plan)
        _run(files, work, left, journal, telling.packing)
        files.sync()
    hashes = hash_files(directory, file_parts(plan.dense, plan.experts), telling.verifying)
    _compare(directory, plan, work, journal, hashes)
    return _write_manifest(directory, plan, work, journal, hashes)


def _require_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed + SPARE:
        raise CapacityError(
            f"{directory} needs {gib(needed + SPARE)} more, and its disk has {gib(free)} free",
            "Free some space, or name a directory on another disk.",
        )


def _drop_damaged(files: PackFiles, work: Iterable[Task], journal: Journal) -> None:
    """Takes out of the journal what is not in the files, as after a power failure."""
    kept = [task for task in work if task.key in journal.done]
    with ThreadPoolExecutor(usable_cores()) as pool:
        for task, checksum in zip(kept, pool.map(files.checksum, kept), strict=True):
            if journal.done[task.key].checksum != checksum:
                del journal.done[task.key]


def _copy_small_files(directory: Path, plan: PackPlan) -> None:
    config = {key: value for key, value in plan.source.raw_config.items() if key != "quantization_config"}
    try:
        write_text(directory / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        for path in _copied(plan.source.directory):
            shutil.copyfile(path, directory / path.name)
            sync(directory / path.name)
    except OSError as error:
        raise unwritable(Path(error.filename or directory), error) from error


def _copied(source: Path) -> Iterator[Path]:
    yield from (source / name for name in COPIED if (source / name).is_file())


def _run(
    files: PackFiles, work: tuple[Task, ...], left: list[Task], journal: Journal, progress: Progress | None
) -> None:
    """Does what is left, two tasks to a core in flight, and writes each down when its bytes are in the file."""
    total = sum(map(task_bytes, work))
    done = total - sum(map(task_bytes, left))
    workers = min(usable_cores(), MOST_WORKERS)
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for task, made in _in_flight(pool, files, left, 2 * workers):
                journal.add(task.key, made)
                done += task_bytes(task)
                if progress is not None:
                    progress(done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _in_flight(
    pool: ThreadPoolExecutor, files: PackFiles, left: list[Task], window: int
) -> Iterator[tuple[Task, Done]]:
    flying: deque[tuple[Task, Future[Done]]] = deque()
    for task in left:
        flying.append((task, pool.submit(_do, files, task)))
        if len(flying) >= window:
            first, future = flying.popleft()
            yield first, future.result()
    for first, future in flying:
        yield first, future.result()


def _do(files: PackFiles, task: Task) -> Done:
    made, digest = task.make(), hashlib.sha256()
    for (start, _), data in zip(task.ranges, made.parts, strict=True):
        digest.update(data.numpy().data)
        files.write(task.file, start, data)
    return Done(digest.hexdigest(), made.error)


def _compare(
    directory: Path, plan: PackPlan, work: tuple[Task, ...], journal: Journal, hashes: dict[str, FileHashes]
) -> None:
    """Refuses a pack whose bytes, read back, are not those that were made."""
    blobs, size = hashes[EXPERTS].parts, plan.experts.blob_bytes
    wrong = [f"{name}, {part}" for name, file in hashes.items() for part in file.unclean]
    with PackFiles(directory, plan, fresh=False) as files:
        for task in work:
            read_back = blobs[task.ranges[0][0] // size] if task.file == EXPERTS else files.checksum(task)
            if read_back != journal.done[task.key].checksum:
                wrong.append(f"{task.file}, {task.key}")
    if wrong:
        raise CheckpointError(
            f"what was written to {directory} reads back otherwise: {'; '.join(wrong[:PROBLEMS_SHOWN])}",
            "Run again, which repairs it; if that does not help, the disk is failing.",
        )


def _write_manifest(
    directory: Path, plan: PackPlan, work: tuple[Task, ...], journal: Journal, hashes: dict[str, FileHashes]
) -> Manifest:
    names = [CONFIG, *(path.name for path in _copied(plan.source.directory))]
    small = {name: FileEntry((directory / name).stat().st_size, file_hash(directory / name)) for name in names}
    large = {name: FileEntry((directory / name).stat().st_size, file.whole) for name, file in hashes.items()}
    manifest = Manifest(
        source=plan.source.identity,
        requested=plan.requested,
        formats=plan.formats,
        mtp_layers=plan.source.config.num_nextn_predict_layers,
        dense=plan.dense,
        experts=plan.experts,
        checksums={name: file.parts for name, file in hashes.items()},
        files=small | large,
        errors=_errors(work, journal),
    )
    finish_pack(directory, manifest)
    return manifest


def _errors(work: tuple[Task, ...], journal: Journal) -> dict[str, float]:
    """Relative error of every matrix and of every layer's experts that were quantised, and of all by file."""
    sums: dict[str, QuantisationError] = {}
    for task in work:
        error = journal.done[task.key].error
        if error is not None:
            for subject in (f"all of {task.file}", task.subject):
                sums[subject] = sums.get(subject, QuantisationError()) + error
    return {subject: float(f"{error.relative:.6g}") for subject, error in sums.items()}
