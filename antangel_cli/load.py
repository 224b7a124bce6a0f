"""The one door to the runtime: opens the model that answers and puts it behind `clinic.model.Model`."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antangel_cli.clinic.model import Model, Piece, Stage, Task, Turn
from antangel_cli.clinic.prompt import THINK_CLOSE, THINK_OPEN
from antangel_cli.errors import ModelError, RejectedError, UsageError
from antangel_cli.settings import Settings
from antangel_cli.source import EMBEDDED, Source, file_hash, find_model, manifest_hash, number_format
from antangel_cli.terminal import Advance

if TYPE_CHECKING:
    import runtime

_DEVICES = {"auto": "cpu", "cuda": "cuda:0"}


def open_model(
    settings: Settings, advance: Advance, sequences: int = 1, announce: Callable[[str], None] | None = None
) -> Model:
    """Load the model that answers; `sequences` is how many tasks will be in flight at once.

    `announce` is told what takes seconds at the first use. Raises ModelError, or PolicyError.
    """
    source = find_model(settings)
    device = _DEVICES.get(settings.device, settings.device)
    with _problems(source), _device_problems(device):
        import runtime

        config = runtime.EngineConfig(
            device=device,
            threads=settings.threads,
            context=settings.context,
            max_sequences=sequences,
        )
        weights = manifest_hash(source.path)
        path = _packed(source, weights, announce) if source.path == EMBEDDED else source.path
        engine = runtime.Engine.load(path, config, progress=advance, announce=announce)
    return RuntimeModel(engine, source, _provenance(engine, source, path, weights, device))


def _packed(source: Source, weights: str, announce: Callable[[str], None] | None) -> Path:
    """The embedded checkpoint, whose hash is `weights`, as a pack in the user's cache, made at the first use.

    Where the cache cannot be written, the pack lives as long as this process.
    """
    import runtime

    place = _pack_home() / f"{source.name}-{runtime.PACK_VERSION}-{weights[:16]}"
    if runtime.is_pack(place):
        return place
    if announce is not None:
        announce(f"Packing the {source.name} model, once: {place}")
    try:
        return _pack_aside(source.path, place)
    except OSError:
        folder = tempfile.TemporaryDirectory(prefix="antangel-pack-")
        atexit.register(folder.cleanup)
        return _pack_aside(source.path, Path(folder.name) / place.name)


def _pack_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "antangel" / "packs"


def _pack_aside(source: Path, place: Path) -> Path:
    """Pack beside the place, then rename: two processes may do so at once, and the first one's stays."""
    import runtime

    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix=f"{place.name}.", dir=place.parent) as folder:
        made = Path(folder) / place.name
        runtime.write_pack(source, made)
        try:
            made.rename(place)
        except OSError:
            if not runtime.is_pack(place):
                raise
    return place


@contextlib.contextmanager
def _device_problems(device: str) -> Iterator[None]:
    """A GPU that is not there, or that this torch cannot use, is a model problem."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        if device == "cpu":
            raise
        raise ModelError(f"{device} cannot be used: {error}", "Use --device cpu.", code="no_device") from error


@contextlib.contextmanager
def _problems(source: Source) -> Iterator[None]:
    """Give the runtime's errors their exit codes."""
    try:
        yield
    except Exception as error:
        module = sys.modules.get("runtime.errors")
        if module is None or not isinstance(error, module.AntangelError):
            raise
        if isinstance(error, module.ContextError):
            raise RejectedError(error.message, error.remedy, code="too_long", stage="prompt") from error
        raise ModelError(f"{source.name}: {error.message}", error.remedy, code=_code(error), stage="load") from error


def _code(error: Exception) -> str:
    return {"CheckpointError": "model_damaged", "CapacityError": "does_not_fit"}.get(type(error).__name__, "model")


class RuntimeModel:
    """A model in this process."""

    def __init__(self, engine: runtime.Engine, source: Source, provenance: dict[str, Any]) -> None:
        self._engine = engine
        self._source = source
        self._stages: dict[int, tuple[Stage, ...]] = {}
        self.name = source.name
        self.demonstration = source.demonstration
        self.context = engine.context
        self.provenance = provenance

    def count(self, turns: Sequence[Turn]) -> int:
        """Tokens of the rendered conversation."""
        return len(self._render(turns))

    def submit(self, task: Task) -> int:
        """Enqueue a task. Raises RejectedError when prompt and answer do not fit the context."""
        import runtime

        stages = request_stages(task)
        request = runtime.Request(
            tuple(self._render(task.turns)), tuple(stage for _, stage in stages), timeout_s=task.timeout_s
        )
        with _problems(self._source):
            number = self._engine.submit(request)
        self._stages[number] = tuple(name for name, _ in stages)
        return number

    def step(self) -> list[Piece]:
        """Advance every task by at most one token; a prompt that takes several batches is read to its end."""
        events: list[runtime.TokenEvent] = []
        with _problems(self._source):
            while not events and self._engine.has_work:
                events = self._engine.step()
        return [self._piece(event) for event in events if event.sequence_id in self._stages]

    def abort(self, task: int) -> None:
        """Stop a task."""
        if self._stages.pop(task, None):
            self._engine.abort(task)

    def stats(self) -> dict[str, float | int | None]:
        """Counters for `--stats`; None where this build has nothing to measure."""
        stats = self._engine.stats()
        ttft = list(stats.ttft_seconds.values())
        return {
            "bytes_moved": None,
            "hit_rate": None,
            "ram_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "ram_budget": None,
            "decode_tok_s": _rate(stats.decode_tokens, stats.decode_seconds),
            "ttft_ms": round(1000 * statistics.median(ttft), 1) if ttft else None,
            "prompt_tokens": stats.prompt_tokens,
            "generated_tokens": stats.generated_tokens,
            "prefill_s": round(stats.prefill_seconds, 3),
            "decode_s": round(stats.decode_seconds, 3),
            "kv_blocks_total": stats.kv_blocks_total,
            "peak_running": stats.peak_running,
        }

    def close(self) -> None:
        """Let go of the model."""
        self._engine.close()

    def _render(self, turns: Sequence[Turn]) -> list[int]:
        import runtime

        messages = [runtime.Message(turn.role, turn.content) for turn in turns]
        return self._engine.tokenizer.render(messages, add_generation_prompt=True)

    def _piece(self, event: runtime.TokenEvent) -> Piece:
        names = self._stages[event.sequence_id]
        if event.finish is not None:
            del self._stages[event.sequence_id]
        return Piece(
            task=event.sequence_id,
            stage=names[event.stage],
            text=event.text,
            tokens=int(event.token_id >= 0),
            stage_finish=event.stage_finish,
            finish=event.finish,
        )


def request_stages(task: Task) -> list[tuple[Stage, runtime.Stage]]:
    """The runtime's stages of a task, each with the name the clinic knows it by."""
    import runtime

    sampling = task.sampling
    free = runtime.SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        repetition_penalty=sampling.repetition_penalty,
        seed=sampling.seed,
    )
    if task.schema is None:
        return [("text", runtime.Stage(free, task.text_tokens))]
    greedy = runtime.SamplingParams(temperature=0.0, repetition_penalty=1.0, seed=sampling.seed)
    if task.text_tokens == 0:
        return [("answer", runtime.Stage(greedy, task.answer_tokens, schema=task.schema))]
    reasoning = runtime.Stage(free, task.text_tokens, prefix=THINK_OPEN, stop=(THINK_CLOSE.rstrip("\n"), "</think>"))
    answer = runtime.Stage(greedy, task.answer_tokens, prefix=THINK_CLOSE, schema=task.schema)
    return [("text", reasoning), ("answer", answer)]


def _rate(tokens: int, seconds: float) -> float | None:
    return round(tokens / seconds, 2) if tokens and seconds else None


def examine(announce: Callable[[str], None]) -> dict[str, Any]:
    """The machine as the runtime sees it, and the kernels chosen and refused for its processor."""
    import runtime

    return runtime.examine(announce)


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


@dataclass(frozen=True)
class MadePack:
    """A pack that was verified: where it is and what is in it. `errors` are relative, by part."""

    directory: str
    formats: dict[str, str]
    bytes: int
    blobs: int
    errors: dict[str, float]


def write_pack(
    checkpoint: str,
    directory: str,
    formats: Mapping[str, str],
    *,
    packing: Advance,
    verifying: Advance,
    announce: Callable[[str], None],
) -> MadePack:
    """Pack a checkpoint in the formats asked for, by part. Raises UsageError or ModelError."""
    import runtime

    telling = runtime.Telling(packing, verifying, announce)
    try:
        with _pack_problems():
            return _made_pack(directory, runtime.write_pack(checkpoint, directory, telling=telling, **formats))
    except OSError as error:
        raise UsageError(f"{error.filename or directory}: {error.strerror}.", "Name another directory.") from error


def check_pack(directory: str, verifying: Advance) -> MadePack:
    """Read a pack to its last byte. Raises ModelError where one is not as it was written."""
    import runtime

    with _pack_problems():
        return _made_pack(directory, runtime.check_pack(directory, verifying))


@contextlib.contextmanager
def _pack_problems() -> Iterator[None]:
    """A format that does not exist is a wrong flag; the rest is a problem with the model."""
    import runtime

    try:
        yield
    except runtime.FormatChoiceError as error:
        raise UsageError(error.message, error.remedy) from error
    except runtime.AntangelError as error:
        raise ModelError(error.message, error.remedy, code=_code(error), stage="pack") from error


def _made_pack(directory: str, manifest: runtime.Manifest) -> MadePack:
    size = sum(file.nbytes for file in manifest.files.values())
    return MadePack(directory, dict(manifest.formats), size, manifest.experts.blobs, dict(manifest.errors))
