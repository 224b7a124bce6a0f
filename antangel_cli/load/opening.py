"""Opens the model that answers."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antangel_cli import __version__
from antangel_cli.clinic.model import Model
from antangel_cli.load.kept import pack_of, profile_place
from antangel_cli.load.machine import device_of, engine_config
from antangel_cli.load.model import RuntimeModel
from antangel_cli.load.problems import device_problems, model_problems
from antangel_cli.meter import Advance
from antangel_cli.settings import Settings
from antangel_cli.source import MANIFEST, Source, file_hash, find_model, manifest_hash, number_format

if TYPE_CHECKING:
    import runtime


def open_model(
    settings: Settings, advance: Advance, sequences: int | None = 1, announce: Callable[[str], None] | None = None
) -> Model:
    """Load the model that answers.

    `sequences` is how many tasks will be in flight at once, None as many as are worth it. `announce` is told what takes
    seconds at the first use. Raises ModelError, PolicyError, or BusyError.
    """
    source = find_model(settings)
    device = device_of(settings, announce)
    with model_problems(source), device_problems(device), contextlib.ExitStack() as held:
        import runtime

        weights = manifest_hash(source.path)
        most = sequences or runtime.many_sequences(runtime.ModelConfig.from_directory(source.path))
        config = engine_config(settings, device=device, max_sequences=most, profile=profile_place(source, weights))
        path = pack_of(source, weights, announce)
        lock = held.enter_context(runtime.ModelLock.take(path, wait=settings.wait, announce=announce))
        engine = runtime.Engine.load(path, config, progress=advance, announce=announce)
        held.callback(engine.close)
        trace = _trace(settings, engine, announce)
        held.pop_all()
    provenance = _provenance(engine, source, path, weights, device)
    return RuntimeModel(engine, source, provenance, lock, trace, _every_byte(path))


def _trace(
    settings: Settings, engine: runtime.Engine, announce: Callable[[str], None] | None
) -> runtime.TraceWriter | None:
    """Something that records the routing from now on, if that is asked for."""
    import runtime

    if settings.trace is None:
        return None
    trace = runtime.TraceWriter.of_model(settings.trace, engine.model_config)
    engine.watch_routing(trace)
    if announce is not None:
        announce(f"{settings.trace}: {trace.notice}")
    return trace


def _every_byte(path: Path) -> str | None:
    """What tells this program with these weights from all others: a pack's manifest has the hashes of all its bytes."""
    manifest = path / MANIFEST
    return f"antangel {__version__}, {file_hash(manifest)}" if manifest.is_file() else None


def _provenance(engine: runtime.Engine, source: Source, path: Path, weights: str, device: str) -> dict[str, Any]:
    return {
        "name": source.name,
        "demonstration": source.demonstration,
        "weights": weights,
        "number_format": number_format(path),
        "tokenizer": file_hash(source.path / "tokenizer.json"),
        "template": hashlib.sha256(engine.tokenizer.template.source.encode()).hexdigest(),
        "backend": engine.backend,
        "device": device,
    }
