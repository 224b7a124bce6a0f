"""The engine: requests in, token events out, one batch of all of them at a time."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch
from torch import Tensor

from kernels.ops import Candidates, Restriction
from kernels.registry import Announce
from runtime.config import EngineConfig, ModelConfig
from runtime.drafting import DraftCheck
from runtime.errors import AntangelError, ContextError, KeptPrefixError
from runtime.examination.scoring import log_likelihoods
from runtime.experts.paging import Pager
from runtime.experts.profile import save_profile
from runtime.generation import Advance, Generation, prepare, tokens_needed
from runtime.grammar import Constraint, GrammarCompiler, begin_masks
from runtime.hardware import set_threads
from runtime.kept_prefix import KeptPrefix, described
from runtime.kv_cache import BlockAllocator, KVCache
from runtime.memory import MAPPED_BATCH, MemoryPlan
from runtime.model_protocol import Model
from runtime.opening import open_on_machine
from runtime.prefixes import PrefixIndex
from runtime.request import NO_TOKEN, Request, TokenEvent
from runtime.sampling import Head, Row, Sampler
from runtime.scheduler import Scheduler
from runtime.sequence import Batch, Sequence, Span
from runtime.stats import Counters, EngineStats
from runtime.tokenizer import Tokenizer
from runtime.weights import open_weights

if TYPE_CHECKING:
    from runtime.gpu.vram import GpuPlan

Outcome = int | AntangelError


class Engine:
    """Generates for many requests at once; step() does one forward pass for all that run.

    `pager` pages experts where not all are in memory. With `measure_mtp` the MTP layer runs beside decoding and its
    drafts are compared, never used. With `use_forced` the tokens that a grammar forces skip sampling; the output is the
    same without.
    """

    def __init__(
        self,
        model: Model,
        model_config: ModelConfig,
        tokenizer: Tokenizer,
        config: EngineConfig,
        *,
        memory: MemoryPlan | GpuPlan | None = None,
        pager: Pager | None = None,
        measure_mtp: bool = False,
        use_forced: bool = True,
    ) -> None:
        self._memory = memory
        self._pager = pager
        self.model_config = model_config
        self.tokenizer = tokenizer
        self.config = config
        self.context = min(config.context or model_config.context, model_config.context)
        self._model = model
        self._use_forced = use_forced
        self._stop_token_ids = {*model_config.stop_token_ids, *tokenizer.stop_token_ids}
        self._sampler = Sampler(min(tokenizer.size, model_config.vocab_size))
        self._compiler = GrammarCompiler(tokenizer, model_config.vocab_size, self._stop_token_ids)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammar")
        # What an MTP layer keeps for a block's last token depends on the next one, which texts do not share.
        sharing = config.share_prefixes and not (measure_mtp and model.has_mtp)
        self._prefixes = PrefixIndex(config.block_size) if sharing else None
        self._allocator = BlockAllocator(config.kv_blocks or -(-self.context // config.block_size), self._prefixes)
        self._cache = KVCache(
            model.cache_layers,
            self._allocator.total,
            config.block_size,
            model_config.num_key_value_heads,
            model_config.head_dim,
            dtype=model.dtype,
            device=model.device,
        )
        self._scheduler = Scheduler(
            self._allocator,
            config.block_size,
            max_batch_tokens=config.max_batch_tokens or MAPPED_BATCH,
            max_sequences=config.max_sequences,
            prefixes=self._prefixes,
        )
        self._generations: dict[int, Generation] = {}
        self._ready: deque[TokenEvent] = deque()
        self._inboxes: dict[int, deque[TokenEvent]] = {}
        self._counters = Counters()
        self._drafts: DraftCheck | None = None
        if measure_mtp and model.has_mtp:
            self._drafts = DraftCheck(model, self._cache, self._sampler.size, self._counters)
        self._next_id = 0

    @classmethod
    def load(
        cls,
        path: str | Path,
        config: EngineConfig | None = None,
        progress: Callable[[int, int], None] | None = None,
        *,
        announce: Announce | None = None,
        measure_mtp: bool = False,
        use_forced: bool = True,
    ) -> Engine:
        """Opens a pack or a checkpoint directory, within the memory that the config allows.

        `progress` is told how many bytes are loaded, and of how many; `announce` what takes seconds besides, and
        what was chosen where not all experts fit. Raises CheckpointError, OptionError or CapacityError.
        """
        from runtime.model import DecoderModel

        config = config or EngineConfig()
        set_threads(config.threads)
        model_config = ModelConfig.from_directory(path)
        tokenizer = Tokenizer.from_directory(path)
        opened = open_on_machine(open_weights(path, model_config), config, announce)
        with torch.inference_mode():
            model = DecoderModel(opened.weights, opened.config, progress, announce, opened.pager)
        engine = cls(
            model,
            model_config,
            tokenizer,
            opened.config,
            memory=opened.memory,
            pager=opened.pager,
            measure_mtp=measure_mtp,
            use_forced=use_forced,
        )
        if opened.finish is not None:
            try:
                with torch.inference_mode():
                    opened.finish(model, progress)
            except BaseException:
                engine.close()
                raise
        return engine

    @property
    def backend(self) -> str:
        """The name of the kernels that compute experts."""
        return self._model.backend

    @property
    def memory(self) -> MemoryPlan | GpuPlan:
        """How memory was divided. Raises LookupError for an engine that was not made by load()."""
        if self._memory is None:
            raise LookupError("this engine was given its model, and no memory was planned for it")
        return self._memory

    @property
    def has_work(self) -> bool:
        """Whether step() has anything to compute or to tell."""
        return bool(self._generations or self._ready)

    def watch_routing(self, observer: Callable[[int, Tensor], None] | None) -> None:
        """From now on the observer is told each layer of every step and its expert ids [T, K]."""
        self._model.routing_observer = observer

    def replace_routing(self, source: Callable[[int, Tensor], Tensor] | None) -> None:
        """From now on the source names the experts [T, K] of a layer in place of the router's, for measuring.

        What was computed with the experts of before is shared no more. Call it while no request is in flight.
        """
        self._model.routing_source = source
        self._scheduler.forget_prefixes()

    def submit(self, request: Request) -> int:
        """Queues a request and returns its sequence id.

        Raises ContextError or CapacityError when it can never fit, GrammarError when a schema is not usable.
        """
        stages = prepare(request, self.tokenizer, self._compiler)
        needed = tokens_needed(request, stages)
        self._check_context(request, needed)
        sequence = Sequence(self._next_id, list(request.prompt_ids), limit=needed)
        now = time.monotonic()
        generation = Generation(
            sequence,
            stages,
            self.tokenizer,
            self._stop_token_ids,
            submitted=now,
            deadline=now + request.timeout_s if request.timeout_s is not None else None,
            use_forced=self._use_forced,
        )
        self._scheduler.add(sequence)
        self._generations[sequence.id] = generation
        self._next_id += 1
        self._begin(generation)
        return sequence.id

    def step(self) -> list[TokenEvent]:
        """Computes one batch and returns what came of it, but for sequences that generate() reads."""
        self._advance_all()
        events = list(self._ready)
        self._ready.clear()
        return events

    def generate(self, request: Request) -> Generator[TokenEvent, None, None]:
        """The events of one request. The first next() submits it, closing the iterator aborts it."""
        inbox: deque[TokenEvent] = deque()
        sequence_id = self._next_id
        self._inboxes[sequence_id] = inbox
        try:
            self.submit(request)
            while True:
                while inbox:
                    event = inbox.popleft()
                    yield event
                    if event.finish:
                        return
                self._advance_all()
        finally:
            self.abort(sequence_id)
            del self._inboxes[sequence_id]

    def abort(self, sequence_id: int) -> None:
        """Ends a request and frees its blocks at once; a request that is over is left alone."""
        if generation := self._generations.get(sequence_id):
            self._drop(generation, generation.interrupt("abort"))

    def stats(self) -> EngineStats:
        recent = {name: dict(getattr(self._counters, name)) for name in ("ttft_seconds", "shared_by_sequence")}
        return EngineStats(
            **vars(self._counters) | recent,
            kv_blocks_free=self._allocator.free_count,
            kv_blocks_total=self._allocator.total,
            preemptions=self._scheduler.preemptions,
            shared_tokens=self._scheduler.shared_tokens,
            paging=self._pager.stats() if self._pager else None,
        )

    def log_likelihoods(self, prompt: Iterable[int], text: Iterable[int]) -> Tensor:
        """Natural log-likelihood of each token of a text behind a prompt of at least one, fp32 [T].

        Raises ContextError or CapacityError where both do not fit, NumericsError. See scoring.py.
        """
        prompt, text = tuple(prompt), tuple(text)
        self._check_fits(len(prompt), len(text))
        batch = self._scheduler.max_batch_tokens
        return log_likelihoods(self._model, self._cache, self._allocator, prompt, text, batch)

    def write_prefix(self, file: BinaryIO, token_ids: Iterable[int], weights: str) -> int:
        """Writes the blocks that are kept of a text, as many as a file may hold; the tokens in them, 0 for none.

        `weights` must tell these weights and this program from all others. See kept_prefix.py.
        """
        kept = self._kept_prefix(weights)
        return 0 if kept is None else kept.write(file, tuple(token_ids))

    def read_prefix(self, path: Path, token_ids: Iterable[int], weights: str) -> int:
        """Takes over what another process wrote of a text's beginning; the tokens that need not be computed again.

        Call it between steps. Raises KeptPrefixError for a file that is of no use here.
        """
        kept = self._kept_prefix(weights)
        if kept is None:
            raise KeptPrefixError("this engine keeps nothing", foreign=True)
        return kept.read(path, tuple(token_ids))

    def _kept_prefix(self, weights: str) -> KeptPrefix | None:
        """None where texts share nothing, or other experts than the router's compute them."""
        if self._prefixes is None or self._model.routing_source is not None:
            return None
        # An MTP layer keeps nothing where texts share blocks.
        layers = min(self._model.cache_layers, self.model_config.num_hidden_layers)
        model = described(weights, self.model_config, self._cache, layers, self._model.backend)
        return KeptPrefix(self._cache, self._allocator, self._prefixes, layers, model)

    def check_integrity(self) -> None:
        """Raises RuntimeError unless blocks, sequences and generations agree."""
        self._scheduler.check_integrity()
        if self._pager:
            self._pager.check_integrity()
        if any(sequence_id not in self._scheduler for sequence_id in self._generations):
            raise RuntimeError("a generation has no sequence")
        if not self._generations and self._scheduler.has_work:
            raise RuntimeError("a sequence has no generation")

    def close(self) -> None:
        """Aborts what runs, stops all threads, and keeps the routing totals where a profile is named."""
        for sequence_id in list(self._generations):
            self.abort(sequence_id)
        self._executor.shutdown()
        if self._pager:
            self._pager.close()
            self._save_profile(self._pager)

    def _save_profile(self, pager: Pager) -> None:
        """A profile that cannot be written costs the next start some seconds, and no more."""
        if self.config.profile is not None and pager.totals.any():
            with contextlib.suppress(OSError):
                save_profile(self.config.profile, pager.geometry, pager.totals)

    def _check_context(self, request: Request, needed: int) -> None:
        prompt = len(request.prompt_ids)
        self._check_fits(prompt, needed - prompt)

    def _check_fits(self, prompt: int, following: int) -> None:
        if prompt + following > self.context:
            raise ContextError(
                f"the prompt has {prompt} tokens and up to {following} may follow: "
                f"{prompt + following} in all, and the context holds {self.context}",
                "Shorten the prompt, or ask for fewer tokens.",
                needed=prompt + following,
                available=self.context,
            )

    def _begin(self, generation: Generation) -> None:
        """Puts the first stage's prefix behind the prompt."""
        advance = self._attempt(generation, generation.start)
        self._scheduler.apply(advance.commit)
        self._take_note([advance])

    def _advance_all(self) -> None:
        """One batch, from schedule to commit."""
        self._end_expired()
        started = time.perf_counter()
        batch = self._scheduler.schedule()
        if batch is None:
            return
        self._counters.peak_running = max(self._counters.peak_running, self._scheduler.running_count)
        sampling = batch.sampling_spans()
        self._begin_masks(sampling)
        hidden = self._compute(batch)
        drawn = self._draw(sampling, hidden, batch.logit_rows)
        if self._drafts:
            self._drafts.observe(batch, hidden, drawn, self._generations)
        prompt_rows = sum(span.length for span in batch.spans if not self._is_decoding(span))
        self._commit(batch, drawn)
        self._counters.count_step(prompt_rows, len(drawn), time.perf_counter() - started)
        if not self._generations:
            self.check_integrity()

    def _is_decoding(self, span: Span) -> bool:
        return span.length == 1 and self._generations[span.sequence_id].saw_token

    def _begin_masks(self, sampling: tuple[Span, ...]) -> None:
        """Grammar masks are made while the model computes."""
        constraints = [self._generations[span.sequence_id].constraint for span in sampling]
        begin_masks([constraint for constraint in constraints if constraint], self._executor)

    def _compute(self, batch: Batch) -> Tensor:
        """Hidden states [T, M] of a batch."""
        started = time.perf_counter()
        hidden = self._model.forward(batch, self._cache)
        self._counters.model_seconds += time.perf_counter() - started
        return hidden

    def _draw(self, sampling: tuple[Span, ...], hidden: Tensor, logit_rows: Tensor) -> dict[int, Outcome]:
        """A token, or what went wrong, for each sequence whose row of hidden states [T, M] has a next token."""
        rows = {span.sequence_id: self._row(self._generations[span.sequence_id]) for span in sampling}
        drawn: dict[int, Outcome] = {i: row for i, row in rows.items() if isinstance(row, AntangelError)}
        usable = {i: row for i, row in rows.items() if isinstance(row, Row)}
        if usable:
            wanted = logit_rows if len(usable) == len(rows) else logit_rows[[i in usable for i in rows]]
            head = self._head(hidden.index_select(0, wanted.to(hidden.device)))
            drawn |= zip(usable, self._sampler.sample(head, list(usable.values())), strict=True)
        return drawn

    def _head(self, hidden: Tensor) -> Head:
        def head(restrictions: list[Restriction], count: int) -> Candidates:
            started = time.perf_counter()
            candidates = self._model.head(hidden, self._sampler.size, restrictions, count)
            self._counters.model_seconds += time.perf_counter() - started
            return candidates

        return head

    def _row(self, generation: Generation) -> Row | AntangelError:
        try:
            constraint = generation.constraint
            return generation.row() if constraint is None else self._masked_row(generation, constraint)
        except AntangelError as error:
            return error

    def _masked_row(self, generation: Generation, constraint: Constraint) -> Row:
        started = time.perf_counter()
        self._counters.masks += 1
        self._counters.masks_overlapped += constraint.mask_ready
        try:
            return generation.row()
        finally:
            self._counters.mask_wait_seconds += time.perf_counter() - started

    def _commit(self, batch: Batch, drawn: dict[int, Outcome]) -> None:
        advances = [self._advance(self._generations[i], outcome) for i, outcome in drawn.items()]
        self._scheduler.commit(batch, [advance.commit for advance in advances])
        for sequence_id in drawn:
            self._note_first(self._generations[sequence_id])
        self._take_note(advances)

    def _advance(self, generation: Generation, outcome: Outcome) -> Advance:
        if isinstance(outcome, AntangelError):
            return generation.fail(outcome)
        return self._attempt(generation, lambda: generation.advance(outcome))

    def _attempt(self, generation: Generation, change: Callable[[], Advance]) -> Advance:
        """An error of one sequence ends it, and it alone."""
        try:
            return change()
        except AntangelError as error:
            return generation.fail(error)

    def _note_first(self, generation: Generation) -> None:
        if not generation.saw_token:
            generation.saw_token = True
            sequence = generation.sequence
            self._counters.count_first(sequence.id, time.monotonic() - generation.submitted, sequence.shared)

    def _take_note(self, advances: Iterable[Advance]) -> None:
        """Counts and tells what the scheduler has already done."""
        for advance in advances:
            self._counters.forced_tokens += advance.forced
            self._tell(advance.events)
            if advance.commit.finished:
                del self._generations[advance.commit.sequence_id]

    def _end_expired(self) -> None:
        now = time.monotonic()
        late = [g for g in self._generations.values() if g.deadline is not None and now >= g.deadline]
        for generation in late:
            self._drop(generation, generation.interrupt("timeout"))

    def _drop(self, generation: Generation, event: TokenEvent) -> None:
        """Ends a sequence between two batches."""
        del self._generations[generation.sequence.id]
        self._scheduler.remove(generation.sequence.id)
        self._tell([event])

    def _tell(self, events: Iterable[TokenEvent]) -> None:
        for event in events:
            self._counters.generated_tokens += event.token_id != NO_TOKEN
            self._inboxes.get(event.sequence_id, self._ready).append(event)
