"""A pack of random weights, made directly in its formats: no checkpoint of floats is ever written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kernels.formats import FLOATS, Format
from runtime.config import ModelConfig
from runtime.errors import CapacityError, CheckpointError, ConfigError, gib
from runtime.inventory import EMBEDDING, dense_matrices, expert_layers, plain_tensors
from runtime.measuring.parts_file import PartsFile
from runtime.measuring.random_weights import (
    ATTENTION_OUTPUT_DEVIATION,
    EMBEDDING_DEVIATION,
    WEIGHT_DEVIATION,
    Bank,
    Bytes,
    integers,
    nibble_pairs,
    normal,
    scales,
)
from runtime.pack_check import FileHashes, Progress, file_hash, file_parts, hash_files
from runtime.pack_files import finish_pack, sync, write_text
from runtime.pack_journal import JOURNAL, Done, Journal
from runtime.pack_layout import DenseEntry, ExpertGeometry, place
from runtime.pack_manifest import DENSE, EXPERTS, MANIFEST, PACK_VERSION, RANDOM_WEIGHTS, FileEntry, Manifest

EXPERTS_FORMAT, DENSE_FORMAT = Format.parse("w4a8:64"), Format.parse("w8a8:64")
BFLOAT16, FLOAT32 = Format.parse("bf16"), Format.parse("fp32")
CONFIG = "config.json"
SHAPES = Path(__file__).with_name("shapes")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

# Left free on the disk.
KEPT_FREE = 3_000_000_000

# Of dense weights, so many are drawn at once; of experts, so many bytes at most are one run of a bank.
PIECE = 8 << 20
# A bank holds this many runs that have nothing in common.
RUNS = 16

SEED = 2

Draw = Callable[[int], Bytes]


@dataclass(frozen=True)
class RandomModel:
    """A model of the shape that a parsed config.json describes, in formats of its experts and its other matrices."""

    shape: Mapping[str, Any]
    experts: Format
    dense: Format

    def __post_init__(self) -> None:
        for format in (self.experts, self.dense):
            if not format.is_quantised or format.zeros:
                raise ConfigError(f"random weights are not made in {format}", "Use w4a8 or w8a8, such as w4a8:64.")

    @property
    def config(self) -> ModelConfig:
        return ModelConfig.from_dict(self.shape)

    @property
    def layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def entries(self) -> tuple[DenseEntry, ...]:
        plain = [(t.name, False, _plain_format(t.name), t.shape) for t in plain_tensors(self.config)]
        matrices = [(m.name, True, self.dense, (m.rows, m.columns)) for m in dense_matrices(self.config)]
        return place([*plain, *matrices])

    @property
    def geometry(self) -> ExpertGeometry:
        config = self.config
        return ExpertGeometry(
            expert_layers(config),
            config.num_experts,
            self.experts,
            self.experts,
            config.hidden_size,
            config.moe_intermediate_size,
        )

    @property
    def nbytes(self) -> int:
        return self.entries[-1].end + self.geometry.nbytes

    @property
    def formats(self) -> dict[str, str]:
        return {"experts": str(self.experts), "dense": str(self.dense)}

    def with_layers(self, layers: int) -> RandomModel:
        return RandomModel({**self.shape, "num_hidden_layers": layers}, self.experts, self.dense)

    def fitting(self, nbytes: int) -> RandomModel:
        """This model, or as many of its layers as fit in so many bytes. Raises CapacityError where no expert does."""
        fewest = self.config.first_k_dense_replace + 1
        for layers in range(self.layers, fewest - 1, -1):
            if self.with_layers(layers).nbytes <= nbytes:
                return self.with_layers(layers)
        raise _no_room(self.with_layers(fewest).nbytes, nbytes)


def true_shape(name: str, experts: Format = EXPERTS_FORMAT, dense: Format = DENSE_FORMAT) -> RandomModel:
    """A model of the shape of Ling-flash-2.0, which is AntAngelMed's ("flash"), or of Ling-mini-2.0 ("mini")."""
    return RandomModel(json.loads((SHAPES / f"{name}.json").read_text(encoding="utf-8")), experts, dense)


def free_for_packs(directory: Path) -> int:
    """Bytes that a pack here may take, with what is there of it already."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    held = sum((directory / name).stat().st_size for name in (DENSE, EXPERTS) if (directory / name).is_file())
    return max(0, shutil.disk_usage(existing).free - KEPT_FREE) + held


def random_pack_place(base: Path, name: str, model: RandomModel) -> tuple[Path, RandomModel]:
    """Where in a directory this model's pack is or will be, and the model with as many layers as the disk has room for.

    One that was begun with fewer layers is gone on with. Raises CapacityError.
    """
    place = _place(base, name, model)
    if (place / MANIFEST).is_file():
        return place, model
    layers = range(model.layers, model.config.first_k_dense_replace, -1)
    begun = (each for each in map(model.with_layers, layers) if _is_begun(_place(base, name, each)))
    chosen = next(begun, None) or model.fitting(free_for_packs(place))
    return _place(base, name, chosen), chosen


def write_random_pack(
    model: RandomModel,
    directory: Path,
    *,
    tokenizer: Path | None = None,
    like: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes a pack, or goes on with one that was begun here; `progress` is told bytes.

    Weights are symmetric, with scales in bf16; their mean is zero. The same model has the same bytes, however often it
    was interrupted. `tokenizer` is a directory whose tokenizer comes along, `like` a pack to share the file of experts
    with. Raises CapacityError (the disk), CheckpointError (another process, or another thing there).
    """
    if model.nbytes > free_for_packs(directory) and like is None:
        raise _no_room(model.nbytes, free_for_packs(directory))
    directory.mkdir(parents=True, exist_ok=True)
    with Journal(directory / JOURNAL, _identity(model)) as journal:
        _start(directory, journal)
        write_text(directory / CONFIG, json.dumps(dict(model.shape), indent=2) + "\n")
        small = [CONFIG, *_copied(tokenizer, directory)]
        large = _Writing(model, directory, journal, progress).files(like)
        _write_manifest(directory, model, small, large)
    (directory / JOURNAL).unlink()


def _place(base: Path, name: str, model: RandomModel) -> Path:
    formats = f"{model.experts}-{model.dense}".replace(":", "-")
    return base / f"{name}-{formats}-{model.layers}"


def _is_begun(directory: Path) -> bool:
    return (directory / JOURNAL).is_file() and not (directory / MANIFEST).is_file()


def _identity(model: RandomModel) -> dict[str, Any]:
    return {"version": PACK_VERSION, "kind": RANDOM_WEIGHTS, "seed": SEED, "shape": dict(model.shape), **model.formats}


def _start(directory: Path, journal: Journal) -> None:
    if (directory / MANIFEST).exists():
        raise CheckpointError(f"{directory} holds a pack already", "Use it, or remove it.")
    if journal.started_anew:
        for name in (DENSE, EXPERTS):
            (directory / name).unlink(missing_ok=True)


def _copied(tokenizer: Path | None, directory: Path) -> list[str]:
    names = [name for name in TOKENIZER_FILES if tokenizer is not None and (tokenizer / name).is_file()]
    for name in names:
        assert tokenizer is not None
        shutil.copyfile(tokenizer / name, directory / name)
        sync(directory / name)
    return names


class _Writing:
    """Writes both large files, and each part of them into the journal."""

    def __init__(self, model: RandomModel, directory: Path, journal: Journal, progress: Progress | None) -> None:
        self._model, self._directory, self._journal, self._progress = model, directory, journal, progress
        self._done, self._total = 0, model.nbytes

    def files(self, like: Path | None) -> dict[str, FileHashes]:
        entries, geometry = self._model.entries, self._model.geometry
        dense = self._file(
            DENSE, PIECE, [entry.end - entry.offset for entry in entries], lambda i: dense_pieces(entries[i], i)
        )
        if like is not None:
            os.link(like / EXPERTS, self._directory / EXPERTS)
            return {DENSE: dense, **hash_files(self._directory, {EXPERTS: file_parts(entries, geometry)[EXPERTS]})}
        blobs = Blobs(geometry)
        experts = self._file(EXPERTS, geometry.blob_bytes, [geometry.blob_bytes] * geometry.blobs, blobs.pieces)
        return {DENSE: dense, EXPERTS: experts}

    def _file(
        self, name: str, buffer_bytes: int, sizes: list[int], pieces: Callable[[int], Iterable[Bytes]]
    ) -> FileHashes:
        known = self._journal.done
        keys = [f"{name} {index}" for index in range(len(sizes))]
        written = [known[key].checksum for key in keys if key in known]
        left: Iterator[str] = iter(())
        with PartsFile(
            self._directory / name,
            buffer_bytes,
            self._wrote,
            lambda checksum: self._journal.add(next(left), Done(checksum, None)),
        ) as file:
            first = file.recall(sizes, written)
            left = iter(keys[first:])
            for index in range(first, len(sizes)):
                file.write(pieces(index))
            return file.finish()

    def _wrote(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)


class Blobs:
    """Experts, in runs of banks: the same blob has the same bytes, whichever thread asks for it."""

    def __init__(self, geometry: ExpertGeometry) -> None:
        self._geometry = geometry
        format, random = geometry.gate_up, np.random.default_rng([SEED, 0])
        weights = 2 * geometry.inner * geometry.hidden
        drawn = RUNS * min(PIECE, weights * format.bits // 8)
        self._weights = Bank(_weights(random, format, drawn))
        self._scales = Bank(_scales(random, format, RUNS * min(PIECE, 2 * weights // format.group)), item_bytes=2)

    def pieces(self, blob: int) -> Iterator[Bytes]:
        geometry, random = self._geometry, np.random.default_rng([SEED, 1, blob])
        draws = (lambda n: self._weights.run(random, n)), (lambda n: self._scales.run(random, n))
        yield from _matrix(geometry.gate_up, 2 * geometry.inner, geometry.hidden, *draws)
        yield _zeros(geometry.down_offset - geometry.gate_up_bytes)
        yield from _matrix(geometry.down, geometry.hidden, geometry.inner, *draws)
        yield _zeros(geometry.blob_bytes - geometry.content)


def dense_pieces(entry: DenseEntry, index: int) -> Iterator[Bytes]:
    """An entry, which is the `index`-th, and the padding behind it."""
    random, format = np.random.default_rng([SEED, 2, index]), entry.format
    if entry.is_matrix:
        rows, columns = entry.shape
        deviation = ATTENTION_OUTPUT_DEVIATION if entry.name.endswith(".attention.dense") else WEIGHT_DEVIATION
        draws = (lambda n: _weights(random, format, n)), (lambda n: _scales(random, format, n, deviation))
        yield from _matrix(format, rows, columns, *draws)
    else:
        yield from _pieces(_plain_draw(random, entry), entry.nbytes)
    yield _zeros(entry.end - entry.offset - entry.nbytes)


def _plain_draw(random: np.random.Generator, entry: DenseEntry) -> Draw:
    if entry.name.endswith("expert_bias"):
        return _zeros
    if entry.name == EMBEDDING:
        return lambda count: _floats("bf16", normal(random, (count // 2,), EMBEDDING_DEVIATION))
    if entry.name.endswith(".mlp.gate.weight"):
        return lambda count: _floats("bf16", normal(random, (count // 2,)))
    return lambda count: _floats("bf16", np.ones(count // 2, dtype=np.float32))


def _plain_format(name: str) -> Format:
    return FLOAT32 if name.endswith("expert_bias") else BFLOAT16


def _matrix(format: Format, rows: int, columns: int, draw_weights: Draw, draw_scales: Draw) -> Iterator[Bytes]:
    """The planes of a matrix."""
    planes, weight_bytes = format.planes(rows, columns), rows * columns * format.bits // 8
    scale_bytes = 2 * rows * columns // format.group
    yield from _pieces(draw_weights, weight_bytes)
    yield _zeros(planes.scales - weight_bytes)
    yield from _pieces(draw_scales, scale_bytes)
    yield _zeros(planes.nbytes - planes.scales - scale_bytes)


def _pieces(draw: Draw, count: int) -> Iterator[Bytes]:
    for start in range(0, count, PIECE):
        yield draw(min(PIECE, count - start))


def _weights(random: np.random.Generator, format: Format, count: int) -> Bytes:
    return nibble_pairs(random, count) if format.bits == 4 else integers(random, count)


def _scales(random: np.random.Generator, format: Format, count: int, deviation: float = WEIGHT_DEVIATION) -> Bytes:
    return _floats(format.scale, scales(random, count // 2, bits=format.bits, deviation=deviation))


def _floats(name: str, values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Bytes:
    return torch.from_numpy(values).to(FLOATS[name]).view(torch.uint8).numpy()


def _zeros(count: int) -> Bytes:
    return np.zeros(count, dtype=np.uint8)


def _write_manifest(directory: Path, model: RandomModel, small: list[str], large: dict[str, FileHashes]) -> None:
    whole = {name: file.whole for name, file in large.items()}
    whole |= {name: file_hash(directory / name) for name in small}
    manifest = Manifest(
        source={"kind": RANDOM_WEIGHTS, "seed": SEED},
        requested=model.formats,
        formats=model.formats,
        mtp_layers=model.config.num_nextn_predict_layers,
        dense=model.entries,
        experts=model.geometry,
        checksums={name: file.parts for name, file in large.items()},
        files={name: FileEntry((directory / name).stat().st_size, sha256) for name, sha256 in whole.items()},
        errors={},
    )
    finish_pack(directory, manifest)


def _no_room(needed: int, free: int) -> CapacityError:
    return CapacityError(
        f"a pack of {gib(needed)} is to be written, and its disk has room for {gib(free)} beside the "
        f"{gib(KEPT_FREE)} that are left free",
        "Free some space, choose another directory, or take fewer layers.",
        shortfall=needed - free,
    )
