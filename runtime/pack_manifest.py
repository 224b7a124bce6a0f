"""The manifest of a pack: what is in it, where, from what, and the hash of every part. Written last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernels.formats import Format, FormatError
from runtime.errors import CheckpointError
from runtime.pack_layout import DenseEntry, ExpertGeometry

PACK_VERSION = 1
MANIFEST = "manifest.json"
DENSE = "dense.bin"
EXPERTS = "experts.bin"

# The kind of source of a pack whose weights were drawn, not trained.
RANDOM_WEIGHTS = "random weights"

PACK_AGAIN = "Remove the directory, and pack the checkpoint again."


@dataclass(frozen=True)
class FileEntry:
    """A file's size in bytes and its SHA-256."""

    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """`source` says what was packed, `requested` in which formats, `formats` what came of it, `errors` at what cost.

    `checksums` are the SHA-256 of every entry of the dense file, and of every blob, padding included.
    """

    source: Mapping[str, Any]
    requested: Mapping[str, str]
    formats: Mapping[str, str]
    mtp_layers: int
    dense: tuple[DenseEntry, ...]
    experts: ExpertGeometry
    checksums: Mapping[str, tuple[str, ...]]
    files: Mapping[str, FileEntry]
    errors: Mapping[str, Any]

    @property
    def is_random(self) -> bool:
        """Whether the weights were drawn, not trained."""
        return self.source.get("kind") == RANDOM_WEIGHTS

    def to_json(self) -> str:
        content = {
            "version": PACK_VERSION,
            "source": dict(self.source),
            "requested": dict(self.requested),
            "formats": dict(self.formats),
            "mtp_layers": self.mtp_layers,
            "files": {name: {"bytes": file.nbytes, "sha256": file.sha256} for name, file in self.files.items()},
            "quantisation_error": dict(self.errors),
            "dense": [_dense_json(entry) for entry in self.dense],
            "experts": _experts_json(self.experts),
            "checksums": {name: list(hashes) for name, hashes in self.checksums.items()},
        }
        return json.dumps(content | {"sha256": _own_hash(content)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Raises CheckpointError where there is none, or one of another version, or a damaged one."""
        path = directory / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            own_hash = content.pop("sha256")
        except FileNotFoundError:
            raise CheckpointError(
                f"{directory} holds no {MANIFEST}: it is no finished pack", "Pack the checkpoint again; it resumes."
            ) from None
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error!r}", PACK_AGAIN) from error
        if content.get("version") != PACK_VERSION:
            raise CheckpointError(
                f"{path} is of version {content.get('version')!r}, and this program reads version {PACK_VERSION}",
                PACK_AGAIN,
            )
        if own_hash != _own_hash(content):
            raise CheckpointError(f"{path} is damaged: it is not what its own hash says", PACK_AGAIN)
        return _parsed(path, content)


def _parsed(path: Path, content: dict[str, Any]) -> Manifest:
    try:
        return Manifest(
            source=content["source"],
            requested=content["requested"],
            formats=content["formats"],
            mtp_layers=content["mtp_layers"],
            dense=tuple(_dense(entry) for entry in content["dense"]),
            experts=_experts(content["experts"]),
            checksums={name: tuple(content["checksums"][name]) for name in (DENSE, EXPERTS)},
            files={name: FileEntry(file["bytes"], file["sha256"]) for name, file in content["files"].items()},
            errors=content["quantisation_error"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is no manifest of a pack: {error!r}", PACK_AGAIN) from error


def _own_hash(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _dense_json(entry: DenseEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "kind": "matrix" if entry.is_matrix else "tensor",
        "format": str(entry.format),
        "shape": list(entry.shape),
        "offset": entry.offset,
        "bytes": entry.nbytes,
    }


def _dense(entry: Mapping[str, Any]) -> DenseEntry:
    shape = tuple(entry["shape"])
    parsed = DenseEntry(entry["name"], entry["kind"] == "matrix", Format.parse(entry["format"]), shape, entry["offset"])
    if parsed.nbytes != entry["bytes"]:
        raise FormatError(f"{parsed.name}: {entry['bytes']} bytes where its format calls for {parsed.nbytes}")
    return parsed


def _experts_json(experts: ExpertGeometry) -> dict[str, Any]:
    return {
        "layers": list(experts.layers),
        "count": experts.count,
        "gate_up": str(experts.gate_up),
        "down": str(experts.down),
        "hidden": experts.hidden,
        "inner": experts.inner,
        "down_offset": experts.down_offset,
        "blob_bytes": experts.blob_bytes,
    }


def _experts(content: Mapping[str, Any]) -> ExpertGeometry:
    experts = ExpertGeometry(
        tuple(content["layers"]),
        content["count"],
        Format.parse(content["gate_up"]),
        Format.parse(content["down"]),
        content["hidden"],
        content["inner"],
    )
    if (experts.down_offset, experts.blob_bytes) != (content["down_offset"], content["blob_bytes"]):
        raise FormatError("the blobs are laid out in another way")
    return experts
