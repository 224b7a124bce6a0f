"""The one door to the runtime: finds the model that answers, and puts it behind `clinic.model.Model`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antangel_cli import ROOT
from antangel_cli.clinic.model import Model, Piece, Stage, Task, Turn
from antangel_cli.clinic.prompt import THINK_CLOSE, THINK_OPEN
from antangel_cli.errors import ModelError, PolicyError, RejectedError
from antangel_cli.settings import Settings, user_config
from antangel_cli.terminal import Advance

if TYPE_CHECKING:
    import runtime

EMBEDDED = ROOT / "nano" / "checkpoint"
MARK = "antangel_demonstration"
"""The key in config.json that says a checkpoint is for demonstration only."""

_DEVICES = {"auto": "cpu", "cuda": "cuda:0"}
HASHED_WHOLE_BYTES = 256 << 20
SET_UP = 'Set a model up with -m DIR, or with the line  model = "/path/to/model"  in {config}.'


@dataclass(frozen=True)
class Source:
    """Where a model is, what it is called, and whether it is the demonstration model."""

    path: Path
    name: str
    demonstration: bool


def set_up_hint() -> str:
    """How a model is configured, in one line."""
    return SET_UP.format(config=user_config(os.environ))


def find_model(settings: Settings) -> Source:
    """The configured model, else the embedded one. Raises ModelError, or PolicyError."""
    path = Path(settings.model).expanduser().absolute() if settings.model else EMBEDDED
    source = _embedded() if path.resolve() == EMBEDDED.resolve() else _configured(path)
    if source.demonstration and not settings.demo_model:
        raise PolicyError(f"The demonstration model is forbidden by {settings.origin('demo_model')}.", set_up_hint())
    return source


def open_model(settings: Settings, advance: Advance, sequences: int = 1) -> Model:
    """Load the model that answers; `sequences` is how many tasks will be in flight at once.

    Raises ModelError, or PolicyError.
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
        engine = runtime.Engine.load(source.path, config, progress=advance)
    return RuntimeModel(engine, source, device)


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

    def __init__(self, engine: runtime.Engine, source: Source, device: str) -> None:
        self._engine = engine
        self._source = source
        self._stages: dict[int, tuple[Stage, ...]] = {}
        self.name = source.name
        self.demonstration = source.demonstration
        self.context = engine.context
        self.provenance = _provenance(engine, source, device)

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


def _provenance(engine: runtime.Engine, source: Source, device: str) -> dict[str, Any]:
    return {
        "name": source.name,
        "demonstration": source.demonstration,
        "weights": manifest_hash(source.path),
        "number_format": _number_format(source.path),
        "tokenizer": _file_hash(source.path / "tokenizer.json"),
        "template": hashlib.sha256(engine.tokenizer.template.source.encode()).hexdigest(),
        "backend": "torch",
        "device": device,
    }


def _number_format(path: Path) -> str:
    """What the weights are stored as: the quantisation, else the number type."""
    config = _read_json(path / "config.json")
    quantization = config.get("quantization_config") or {}
    return str(quantization.get("quant_method") or config.get("torch_dtype") or config.get("dtype") or "unknown")


def manifest_hash(path: Path) -> str:
    """SHA-256 over what a checkpoint is made of: names and sizes of its weights, config and index.

    A checkpoint below 256 MiB is hashed whole; hashing hundreds of gigabytes would take minutes.
    """
    weights = sorted(path.glob("*.safetensors"))
    whole = sum(file.stat().st_size for file in weights) < HASHED_WHOLE_BYTES
    lines = [f"{file.name} {file.stat().st_size} {_file_hash(file) if whole else ''}" for file in weights]
    small = (path / name for name in ("config.json", "model.safetensors.index.json"))
    lines += [f"{file.name} {_file_hash(file)}" for file in small if file.is_file()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
