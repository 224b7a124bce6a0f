"""The one door to the runtime: opens the model that answers and puts it behind `clinic.model.Model`."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import hashlib
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antangel_cli import ROOT
from antangel_cli.clinic.model import Model, Piece, Stage, Task, Turn
from antangel_cli.clinic.prompt import THINK_CLOSE, THINK_OPEN
from antangel_cli.errors import BusyError, ModelError, RejectedError, UsageError
from antangel_cli.settings import Settings
from antangel_cli.sizes import Amount
from antangel_cli.source import EMBEDDED, MANIFEST, Source, file_hash, find_model, manifest_hash, number_format
from antangel_cli.terminal import Advance

if TYPE_CHECKING:
    import runtime

Exchange = tuple[Sequence[Turn], str]
"""A conversation that ends with a question, and the answer to it."""



def open_model(
    settings: Settings, advance: Advance, sequences: int = 1, announce: Callable[[str], None] | None = None
) -> Model:
    """Load the model that answers; `sequences` is how many tasks will be in flight at once.

    `announce` is told what takes seconds at the first use. Raises ModelError, PolicyError, or BusyError.
    """
    source = find_model(settings)
    device = _device(settings)
    with _problems(source), _device_problems(device), contextlib.ExitStack() as held:
        import runtime

        weights = manifest_hash(source.path)
        config = engine_config(settings, device=device, max_sequences=sequences, profile=_profile(source, weights))
        path = _pack_of(source, weights, announce)
        lock = held.enter_context(runtime.ModelLock.take(path, wait=settings.wait, announce=announce))
        engine = runtime.Engine.load(path, config, progress=advance, announce=announce)
        held.callback(engine.close)
        trace = _trace(settings, engine, announce)
        held.pop_all()
    return RuntimeModel(engine, source, _provenance(engine, source, path, weights, device), lock, trace)


def _device(settings: Settings) -> str:
    """The device that the settings mean: on their own, a GPU that our kernels run on, else the CPU."""
    if settings.device == "auto":
        import runtime

        return runtime.best_device()
    return "cuda:0" if settings.device == "cuda" else settings.device


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


def engine_config(settings: Settings, **options: Any) -> runtime.EngineConfig:
    """What the settings say of the machine, and more by name."""
    import runtime

    return runtime.EngineConfig(
        threads=settings.threads,
        context=settings.context,
        ram=_amount(settings.ram),
        vram=_amount(settings.vram),
        kv=_amount(settings.kv),
        slots=_amount(settings.slots),
        disk=not settings.no_disk,
        policy=settings.policy,
        lookahead=settings.lookahead,
        cpu_share=settings.cpu_share,
        **options,
    )


def _amount(amount: Amount | None) -> int | runtime.Share | None:
    import runtime

    return runtime.Share(amount) if isinstance(amount, float) else amount


def _profile(source: Source, weights: str) -> Path:
    """Where the routing totals of a model are kept: nothing per token, so nothing of a patient."""
    return _cache_home() / "profiles" / f"{source.name}-{weights[:16]}.json"


def _pack_of(source: Source, weights: str, announce: Callable[[str], None] | None) -> Path:
    """What is opened of a model: the directory itself, or what was packed of the embedded checkpoint.

    That one, whose hash is `weights`, is packed into the user's cache at the first use; where the cache cannot be
    written, the pack lives as long as this process.
    """
    import runtime

    if source.path != EMBEDDED:
        return source.path
    place = _cache_home() / "packs" / f"{source.name}-{runtime.PACK_VERSION}-{weights[:16]}"
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


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "antangel"


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
        if isinstance(error, module.BusyError):
            raise BusyError(
                f"{source.name} is in use by {error.holder}.", "Wait until it ends, or run with --wait.", stage="load"
            ) from error
        if isinstance(error, module.OptionError):
            raise UsageError(f"{error.message}.", error.remedy) from error
        if isinstance(error, module.ContextError):
            raise RejectedError(error.message, error.remedy, code="too_long", stage="prompt") from error
        raise ModelError(f"{source.name}: {error.message}", error.remedy, code=_code(error), stage="load") from error


def _code(error: Exception) -> str:
    return {
        "CheckpointError": "model_damaged",
        "ExpertReadError": "model_damaged",
        "CapacityError": "does_not_fit",
    }.get(type(error).__name__, "model")


class RuntimeModel:
    """A model in this process."""

    def __init__(
        self,
        engine: runtime.Engine,
        source: Source,
        provenance: dict[str, Any],
        lock: runtime.ModelLock,
        trace: runtime.TraceWriter | None = None,
    ) -> None:
        self._engine = engine
        self._lock = lock
        self._trace = trace
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

    def stats(self) -> dict[str, Any]:
        """Counters for `--stats`. All experts in memory: no hit rate, and nothing is moved."""
        import runtime

        stats = self._engine.stats()
        paging = stats.paging
        ttft = list(stats.ttft_seconds.values())
        return {
            "bytes_moved": paging.bytes_moved if paging else 0,
            "hit_rate": paging.hit_rate if paging else None,
            "ram_peak": runtime.peak_memory(),
            "ram_budget": self._engine.memory.budget,
            "decode_tok_s": _rate(stats.decode_tokens, stats.decode_seconds),
            "ttft_ms": round(1000 * statistics.median(ttft), 1) if ttft else None,
            "prompt_tokens": stats.prompt_tokens,
            "generated_tokens": stats.generated_tokens,
            "prefill_s": round(stats.prefill_seconds, 3),
            "decode_s": round(stats.decode_seconds, 3),
            "kv_blocks_total": stats.kv_blocks_total,
            "peak_running": stats.peak_running,
            "experts": self._engine.memory.placement,
            "paging": dataclasses.asdict(paging) if paging else None,
        }

    def close(self) -> None:
        """Let go of the model."""
        self._engine.close()
        if self._trace is not None:
            self._trace.close()
        self._lock.close()

    @property
    def is_random(self) -> bool:
        """Whether the weights were drawn, not trained."""
        import runtime

        path = self._source.path
        return runtime.is_pack(path) and runtime.Manifest.read(path).is_random

    def self_test(self, exchanges: Sequence[Exchange], prose: Sequence[str], most_nats: float | None) -> dict[str, Any]:
        """Weigh the answers and the prose, and answer the first question."""
        import runtime

        encode = self._engine.tokenizer.encode_text
        passages = [runtime.Passage(tuple(self._render(turns)), tuple(encode(answer))) for turns, answer in exchanges]
        texts = [tuple(encode(text)) for text in prose]
        passages += [runtime.Passage(ids[:1], ids[1:]) for ids in texts]
        with _problems(self._source):
            verdict = runtime.run_self_test(self._engine, passages, passages[0].prompt, most_nats)
        return {
            "faults": verdict.faults,
            "nats": verdict.nll,
            "most_nats": verdict.bound,
            "tokens": verdict.tokens,
            "spoken": verdict.spoken,
            "seconds": round(verdict.seconds, 2),
        }

    def _render(self, turns: Sequence[Turn]) -> list[int]:
        return self._engine.tokenizer.render(_messages(turns), add_generation_prompt=True)

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


def _messages(turns: Sequence[Turn]) -> list[runtime.Message]:
    import runtime

    return [runtime.Message(turn.role, turn.content) for turn in turns]


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


def untestable(model: Model) -> str | None:
    """Why a model has no self-test; None where it has one."""
    if not isinstance(model, RuntimeModel):
        return "not run: the model is not in this process"
    return "not run: random weights" if model.is_random else None


def self_test(
    model: Model, exchanges: Sequence[Exchange], prose: Sequence[str], most_nats: float | None
) -> dict[str, Any]:
    """Let a model weigh texts and answer a question; None takes a bound that holds for any model. Raises ModelError."""
    if not isinstance(model, RuntimeModel):
        raise TypeError("the model is not in this process")
    return model.self_test(exchanges, prose, most_nats)


@dataclass(frozen=True)
class BenchWorkload:
    """What a benchmark asks: conversations in turn, cut to `prompt` tokens where told, `batch` of them at once."""

    conversations: Sequence[Sequence[Turn]]
    prompt: int | None
    new: int
    batch: int
    warm_rounds: int


_NANO_TRACE = ROOT / "bench" / "traces" / "nano-cases.jsonl.gz"


def random_model(
    shape: str, layers: int | None, directory: str | None, advance: Advance, announce: Callable[[str], None]
) -> str:
    """The directory of a pack of random weights of a true shape, made at the first use. Raises ModelError."""
    import runtime

    base = Path(directory).expanduser().absolute() if directory else _cache_home() / "bench"
    with _pack_problems():
        whole = runtime.true_shape(shape)
        wanted = whole if layers is None else whole.with_layers(layers)
        place, model = runtime.random_pack_place(base, shape, wanted)
        if model != wanted:
            announce(f"The disk of {base} has room for {model.layers} of {wanted.layers} layers.")
        if not runtime.is_pack(place):
            announce(f"Making {model.nbytes / 1e9:.1f} GB of random weights, once: {place}")
            runtime.write_random_pack(model, place, tokenizer=EMBEDDED, progress=advance)
    return str(place)


def skew_trace(place: str | None) -> Path:
    """The trace whose skew is replayed: the one that is named, else that of the demonstration model."""
    path = _NANO_TRACE if place is None else Path(place).expanduser()
    if not path.is_file():
        raise UsageError(f"There is no routing trace {path}.", "Name one with --trace-skew FILE.", code="no_such_file")
    return path


def benchmark(
    settings: Settings, asked: BenchWorkload, skew: Path | None, advance: Advance, announce: Callable[[str], None]
) -> dict[str, Any]:
    """Measure the model that answers, with nothing of it in memory at first, and predict the same."""
    source = find_model(settings)
    device = _device(settings)
    with _problems(source), _device_problems(device), contextlib.ExitStack() as held:
        import runtime

        weights = manifest_hash(source.path)
        config = engine_config(settings, device=device, max_sequences=asked.batch)
        path = _pack_of(source, weights, announce)
        held.enter_context(runtime.ModelLock.take(path, wait=settings.wait, announce=announce))
        prompts = [_messages(turns) for turns in asked.conversations]
        workload = runtime.Workload(prompts, asked.prompt, asked.new, asked.batch, asked.warm_rounds)
        measured = runtime.run_benchmark(
            path,
            config,
            workload,
            prepare=None if skew is None else runtime.skew_of(skew),
            trace=None if settings.trace is None else Path(settings.trace),
            listening=runtime.Listening(measuring=advance, announce=announce),
        )
        predicted = _predicted(path, config, measured, skew)
    model = {"name": source.name, "formats": number_format(path), "weights": weights, "device": device}
    return {"model": model, "machine": runtime.surroundings(), **measured.to_json(), "predicted": predicted}


def _predicted(
    path: Path, config: runtime.EngineConfig, measured: runtime.Benchmark, skew: Path | None
) -> dict[str, Any]:
    """Each figure that was predicted and measured; none of a checkpoint, nor of a run that was interrupted."""
    import runtime

    if not runtime.is_pack(path) or not measured.complete:
        return {}
    compared = runtime.compare_to_plan(path, config, measured, skewed=skew is not None)
    return {name: each.to_json() for name, each in compared.items()}


@dataclass(frozen=True)
class ToldMachine:
    """What is told of a machine to plan for, in bytes and bytes a second; None is taken from this one.

    `pcie` is a generation, as a word, or a rate; `vram` 0 means that there is no GPU.
    """

    ram: int | None = None
    vram: int | None = None
    cores: int | None = None
    dram: int | None = None
    disk: int | None = None
    pcie: int | str | None = None


def plan_model(
    settings: Settings, path: Path, told: ToldMachine, *, formats: Mapping[str, str | None], prompt: int, batch: int
) -> dict[str, Any]:
    """Plan `batch` sequences of a model at a time, from its config or manifest. Raises UsageError or ModelError."""
    import runtime

    rates = {name: _told_rate(getattr(told, name)) for name in ("dram", "disk", "pcie")}
    machine = runtime.ToldMachine(told.ram, told.vram, told.cores, **rates)
    if told.ram is not None:
        settings = dataclasses.replace(settings, ram=None)
    device = _device(settings)
    try:
        with _pack_problems(), _device_problems(device):
            profile = _profile_of(path)
            engine = engine_config(settings, device=device, max_sequences=batch, profile=profile)
            planned = runtime.plan_model(path, engine, machine, prompt=prompt, **formats)
    except OSError as error:
        raise ModelError(f"{error.filename or path}: {error.strerror}.", "Correct its permissions.") from error
    return dataclasses.asdict(planned) | {"sequences": batch}


def _told_rate(rate: int | str | None) -> runtime.Rate | None:
    import runtime

    if isinstance(rate, str):
        return runtime.PCIE[int(rate)]
    return None if rate is None else runtime.Rate(float(rate), "told")


def _profile_of(path: Path) -> Path | None:
    """The routing profile of a pack; that of a checkpoint is not looked for, as its weights would have to be read."""
    if not (path / MANIFEST).is_file():
        return None
    return _profile(Source(path, path.name, False), manifest_hash(path))


def memory_rate(threads: int | None) -> dict[str, Any]:
    """How fast this machine reads memory, measured."""
    import runtime

    return dataclasses.asdict(runtime.this_machine(threads).dram)


def examine_model(settings: Settings, path: Path) -> dict[str, Any]:
    """What is in a model's files, counted against its config; where it would go; and the rates of this machine.

    Raises ModelError where something is missing, too much or of another shape.
    """
    import runtime

    with _problems(Source(path, path.name, False)):
        held = runtime.examine_model(path)
    planned = plan_model(settings, path, ToldMachine(), formats={}, prompt=1000, batch=1)
    prediction, machine = planned["prediction"], planned["machine"]
    needs = sum(tier["bytes"] for tier in prediction["tiers"] if tier["memory"] == "RAM")
    chosen = {key: prediction[key] for key in ("fits", "slots", "experts", "problem", "remedy")}
    return {
        "kind": held.kind,
        "tensors": f"{held.found}, as config.json calls for",
        "found": dataclasses.asdict(held.found),
        "expected": dataclasses.asdict(held.expected),
        "mtp_layers": held.mtp_layers,
        "fingerprint": held.fingerprint,
        "memory": chosen | {"needs": needs, "may_take": prediction["budgets"].get("RAM", 0)},
        "rates": {"memory": machine["dram"], "disk": machine["disk"]},
    }


def replay_trace(trace: str, advance: Advance) -> dict[str, Any]:
    """What every policy would have made of a recorded trace. Raises UsageError."""
    import runtime

    try:
        return runtime.replay(runtime.read_trace(trace), progress=advance).to_json()
    except runtime.TraceError as error:
        raise UsageError(f"{error.message}.", error.remedy, code="bad_trace") from error
