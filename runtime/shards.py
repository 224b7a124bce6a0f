"""safetensors files: what their headers say, and rows read from them without mapping the file."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.errors import CheckpointError

INDEX = "model.safetensors.index.json"

# safetensors' names of the floats that are read as they are, and torch's.
NUMBER_TYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}

# Those of quantised checkpoints too.
STORED_TYPES = NUMBER_TYPES | {"F8_E4M3": torch.float8_e4m3fn, "I32": torch.int32, "I64": torch.int64}

NAMES_SHOWN = 20


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a shard's header describes it; its bytes begin at `offset` of the file."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    shard: Path
    offset: int
    nbytes: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one index of the first dimension."""
        return self.nbytes // max(self.shape[0] if self.shape else 1, 1)

    def read(self, start: int = 0, stop: int | None = None) -> Tensor:
        """The tensor, or its rows from `start` to `stop`, in memory of its own. Raises CheckpointError."""
        stop = stop if stop is not None else (self.shape[0] if self.shape else 1)
        buffer = bytearray((stop - start) * self.row_bytes)
        with self._file() as file:
            read_into(file, self.offset + start * self.row_bytes, memoryview(buffer), self.shard)
        return self._tensor(buffer, (stop - start, *self.shape[1:]) if self.shape else ())

    def read_columns(self, start: int, stop: int) -> Tensor:
        """Columns of a tensor of two dimensions, reading no others. Raises CheckpointError."""
        rows, columns = self.shape
        size = self.row_bytes // columns
        width = (stop - start) * size
        buffer = bytearray(rows * width)
        view = memoryview(buffer)
        with self._file() as file:
            for row in range(rows):
                at = self.offset + row * self.row_bytes + start * size
                read_into(file, at, view[row * width : (row + 1) * width], self.shard)
        return self._tensor(buffer, (rows, stop - start))

    def _file(self) -> Any:
        try:
            return self.shard.open("rb", buffering=0)
        except OSError as error:
            raise damaged(self.shard, str(error)) from error

    def _tensor(self, buffer: bytearray, shape: tuple[int, ...]) -> Tensor:
        if not buffer:
            return torch.empty(shape, dtype=STORED_TYPES[self.dtype])
        return torch.frombuffer(buffer, dtype=STORED_TYPES[self.dtype]).view(shape)


def read_into(file: Any, offset: int, view: memoryview, path: Path) -> None:
    """Fills a view with the bytes of a file from `offset`. Raises CheckpointError where there are fewer."""
    done = 0
    try:
        while done < len(view):
            count = os.preadv(file.fileno(), [view[done:]], offset + done)
            if count == 0:
                raise damaged(path, f"it ends before byte {offset + len(view)}")
            done += count
    except OSError as error:
        raise damaged(path, str(error)) from error


def read_headers(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor in a checkpoint directory, by name. Raises CheckpointError for a missing or damaged file."""
    return {tensor.name: tensor for shard in find_shards(directory) for tensor in _read_header(shard)}


def find_shards(directory: Path) -> list[Path]:
    """The files of weights: those of the index, else the only one."""
    index = directory / INDEX
    if not index.is_file():
        return _single_file(directory)
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise damaged(index, f"it holds no weight_map ({error})") from error
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{directory} lacks {len(missing)} of {len(names)} shards: {', '.join(missing[:NAMES_SHOWN])}",
            "Download the missing files.",
        )
    return [directory / name for name in names]


def damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {why}", f"Download {path.name} again.")


def _single_file(directory: Path) -> list[Path]:
    files = sorted(directory.glob("*.safetensors"))
    if len(files) == 1:
        return files
    found = f"{len(files)} safetensors files and no {INDEX}" if files else "no safetensors file"
    raise CheckpointError(f"{directory} holds {found}", "Give the directory of a complete checkpoint, as downloaded.")


def _read_header(shard: Path) -> Iterator[StoredTensor]:
    """Names, shapes and types from the JSON header of a safetensors file, whose length is checked."""
    size = shard.stat().st_size
    with shard.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else 0
        if not 0 < length <= size - 8:
            raise damaged(shard, f"its {size} bytes hold no complete header")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise damaged(shard, "its header is unreadable") from error
    if size != 8 + length + end:
        raise damaged(shard, f"it has {size} bytes where its header calls for {8 + length + end}")
    for name, entry in header.items():
        yield _stored(name, entry, shard, 8 + length)


def _stored(name: str, entry: Any, shard: Path, data: int) -> StoredTensor:
    try:
        shape, dtype, (start, stop) = tuple(entry["shape"]), entry["dtype"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(shard, f"its header is unreadable at {name}") from error
    known = STORED_TYPES.get(dtype)
    if start < 0 or stop < start or (known is not None and stop - start != torch.Size(shape).numel() * known.itemsize):
        raise damaged(shard, f"{name} has {stop - start} bytes, which is not {list(shape)} {dtype}")
    return StoredTensor(name, shape, dtype, shard, data + start, stop - start)
