"""Which model answers: the configured one, else the embedded demonstration. No weight is read here."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antangel_cli import ROOT
from antangel_cli.errors import CommandError, ModelError, PolicyError
from antangel_cli.settings import Settings, user_config

EMBEDDED = ROOT / "nano" / "checkpoint"
MARK = "antangel_demonstration"
"""The key in config.json that says a checkpoint is for demonstration only."""

MANIFEST = "manifest.json"
_HASH = re.compile(r"[0-9a-f]{64}")
HASHED_WHOLE_BYTES = 256 << 20
SET_UP = {
    "en": 'Set a model up with -m DIR, or with the line  model = "/path/to/model"  in {config}.',
    "zh": '设置模型：用 -m DIR 指定，或在 {config} 中写入一行  model = "/path/to/model"',
}


@dataclass(frozen=True)
class Source:
    """Where a model is, what it is called, and whether it is the demonstration model."""

    path: Path
    name: str
    demonstration: bool


def set_up_hint(chinese: bool = False) -> str:
    """How a model is configured, in one line."""
    return SET_UP["zh" if chinese else "en"].format(config=user_config(os.environ))


def described(settings: Settings) -> tuple[dict[str, Any], str]:
    """The model that would answer, or why none does; and what to do about it, empty where nothing need be done."""
    try:
        model = find_model(settings)
    except CommandError as error:
        return {"name": None, "problem": error.message}, error.remedy
    facts = {"name": model.name, "path": str(model.path), "demonstration": model.demonstration}
    return facts, set_up_hint() if model.demonstration else ""


def find_model(settings: Settings) -> Source:
    """The configured model, else the embedded one. Raises ModelError, or PolicyError."""
    path = Path(settings.model).expanduser().absolute() if settings.model else EMBEDDED
    source = _embedded() if path.resolve() == EMBEDDED.resolve() else _configured(path)
    if source.demonstration and not settings.demo_model:
        raise PolicyError(f"The demonstration model is forbidden by {settings.origin('demo_model')}.", set_up_hint())
    _require_allowed(source, settings)
    return source


def _require_allowed(source: Source, settings: Settings) -> None:
    """Hold a model against the policy's list of names and hashes; a name is only its directory's."""
    allowed = settings.allowed_models
    if allowed is None or source.name in allowed:
        return
    if not any(_HASH.fullmatch(entry) for entry in allowed) or manifest_hash(source.path) not in allowed:
        raise PolicyError(
            f"{source.name} is none of the models that {settings.origin('allowed_models')} allows.",
            "Choose one of them with -m DIR: antangel config show lists them.",
        )


def _embedded() -> Source:
    if not (EMBEDDED / "config.json").is_file():
        raise ModelError(
            "No model is configured, and this installation has no demonstration model.",
            "Give a model with -m DIR.",
            code="model_missing",
        )
    return Source(EMBEDDED, "nano", True)


def _configured(path: Path) -> Source:
    if not path.is_dir():
        raise ModelError(f"{path} is no directory.", set_up_hint(), code="model_missing")
    config = _read_json(path / "config.json")
    _require_shards(path)
    return Source(path, _name(path), config.get(MARK) is True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{path} does not exist.", "Give the directory of a complete checkpoint.", code="model_incomplete"
        ) from None
    except (OSError, ValueError):
        raise ModelError(f"{path} cannot be read.", "Download the file again.", code="model_damaged") from None
    return content if isinstance(content, dict) else {}


def _require_shards(path: Path) -> None:
    index = path / "model.safetensors.index.json"
    names = sorted(set(_read_json(index).get("weight_map", {}).values())) if index.is_file() else []
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise ModelError(
            f"{path} lacks {len(missing)} of {len(names)} weight files, the first {missing[0]}.",
            "Download the missing files.",
            code="model_incomplete",
        )


def _name(path: Path) -> str:
    """The directory's name; inside a Hugging Face cache, the repository's."""
    if path.parent.name == "snapshots":
        return path.parent.parent.name.removeprefix("models--").replace("--", "/")
    return path.name


def number_format(path: Path) -> str:
    """What the weights are stored as: a pack's formats, a checkpoint's quantisation, else its number type."""
    if (path / MANIFEST).is_file():
        formats = _read_json(path / MANIFEST)["formats"]
        return ", ".join(f"{part} {name}" for part, name in formats.items())
    config = _read_json(path / "config.json")
    quantization = config.get("quantization_config") or {}
    return str(quantization.get("quant_method") or config.get("torch_dtype") or config.get("dtype") or "unknown")


def manifest_hash(path: Path) -> str:
    """SHA-256 over what a checkpoint is made of: names and sizes of its weights, config and index.

    A checkpoint below 256 MiB is hashed whole; hashing hundreds of gigabytes would take minutes. A pack's manifest
    holds the hash of every file.
    """
    if (path / MANIFEST).is_file():
        return file_hash(path / MANIFEST)
    weights = sorted(path.glob("*.safetensors"))
    whole = sum(file.stat().st_size for file in weights) < HASHED_WHOLE_BYTES
    lines = [f"{file.name} {file.stat().st_size} {file_hash(file) if whole else ''}" for file in weights]
    small = (path / name for name in ("config.json", "model.safetensors.index.json"))
    lines += [f"{file.name} {file_hash(file)}" for file in small if file.is_file()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
