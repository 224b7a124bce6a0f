"""A model in this process, behind `clinic.model.Model`."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from antangel_cli.clinic.model import READING, Piece, Stage, Taken, Task, Turn
from antangel_cli.load.problems import model_problems
from antangel_cli.load.request import messages, request_stages
from antangel_cli.source import Source

if TYPE_CHECKING:
    import runtime


Exchange = tuple[Sequence[Turn], str]
"""A conversation that ends with a question, and the answer to it."""


class RuntimeModel:
    """A model in this process. `weights` tells them from all others; None where not every byte is vouched for."""

    def __init__(
        self,
        engine: runtime.Engine,
        source: Source,
        provenance: dict[str, Any],
        lock: runtime.ModelLock,
        trace: runtime.TraceWriter | None = None,
        weights: str | None = None,
    ) -> None:
        self._engine = engine
        self._lock = lock
        self._trace = trace
        self._weights = weights
        self._source = source
        self._stages: dict[int, tuple[Stage, ...]] = {}
        self._rendered: tuple[tuple[Turn, ...], list[int]] | None = None
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
        with model_problems(self._source):
            number = self._engine.submit(request)
        self._stages[number] = tuple(name for name, _ in stages)
        return number

    def step(self) -> list[Piece]:
        """Advance every task by at most one token, or read a part of a prompt."""
        if not self._engine.has_work:
            return []
        with model_problems(self._source):
            events = self._engine.step()
        return [self._piece(event) for event in events if event.sequence_id in self._stages] or [READING]

    def abort(self, task: int) -> None:
        """Stop a task."""
        if self._stages.pop(task, None):
            self._engine.abort(task)

    def write_computed(self, turns: Sequence[Turn], file: BinaryIO) -> int:
        """Write the keys and values that the engine keeps of a conversation; how many tokens they are of."""
        return 0 if self._weights is None else self._engine.write_prefix(file, self._begun(turns), self._weights)

    def read_computed(self, turns: Sequence[Turn], place: Path) -> Taken:
        """Take over the keys and values of a conversation's beginning."""
        import runtime

        if self._weights is None:
            return Taken(refused="the model is not packed")
        try:
            return Taken(self._engine.read_prefix(place, self._begun(turns), self._weights))
        except runtime.KeptPrefixError as error:
            return Taken(refused=error.message, useless=not error.foreign)

    def _begun(self, turns: Sequence[Turn]) -> list[int]:
        """What the tokens of the next question begin with: a template may change a reply that another turn follows."""
        return self._render([*turns, Turn("user", "")])

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
            "shared_tokens": stats.shared_tokens,
            "generated_tokens": stats.generated_tokens,
            "prefill_s": round(stats.prefill_seconds, 3),
            "decode_s": round(stats.decode_seconds, 3),
            "kv_blocks_total": stats.kv_blocks_total,
            "kv_tokens": stats.kv_blocks_total * self._engine.config.block_size,
            "sequences": self._engine.config.max_sequences,
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
        with model_problems(self._source):
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
        """Its tokens. A question is counted before it is submitted: the last one is not tokenised again."""
        if self._rendered is None or self._rendered[0] != tuple(turns):
            ids = self._engine.tokenizer.render(messages(turns), add_generation_prompt=True)
            self._rendered = tuple(turns), ids
        return self._rendered[1]

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


def _rate(tokens: int, seconds: float) -> float | None:
    return round(tokens / seconds, 2) if tokens and seconds else None
