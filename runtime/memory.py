"""What goes where: the bytes of a model by part, and how a budget of memory is divided among them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kernels.formats import Format
from runtime.config import Amount, EngineConfig, ModelConfig, Share
from runtime.errors import CapacityError, OptionError, gib
from runtime.hardware import usable_memory
from runtime.inventory import EMBEDDING, dense_matrices, expert_layers, plain_tensors
from runtime.pack_layout import DenseEntry, ExpertGeometry, place

Placement = Literal["mapped", "paged"]

# Of what is left for the cache of keys and values and for experts, the part that the former may take unless told.
KV_SHARE = 0.25
# Room for each sequence beside the one that may fill the context.
TOKENS_PER_SEQUENCE = 2048

# Sequences that run at once where as many as are worth it are asked for: the more only where the keys and values of all
# of them take little of what experts could have.
MANY_SEQUENCES = (16, 32)
LITTLE_KV = 1 << 30

# Tokens of a prompt that are computed at once. With experts on disk a pass over them costs the same for many.
MAPPED_BATCH = 512
PAGED_BATCHES = (4096, 2048, 1024, 512)
# The part of the budget that such a batch may take.
BATCH_SHARE = 1 / 16

# Keys and values are kept in fp32 on a CPU.
KV_ITEM_BYTES = 4

# What an idle process of ours takes with all libraries loaded, and what it grows by as it works.
IDLE_PROCESS = 450 << 20
GROWTH = 160 << 20

# Of the memory that is free, the part that is left to others unless told.
LEFT_FREE = 0.06

# A touched row of the embedding brings its neighbours into memory: so much for each token of a batch.
TOUCHED_PER_TOKEN = 64 << 10


def many_sequences(config: ModelConfig) -> int:
    """How many sequences a batch is worth running at once with a model."""
    few, many = MANY_SEQUENCES
    return many if many * TOKENS_PER_SEQUENCE * _kv_per_token(config) <= LITTLE_KV else few


def _kv_per_token(config: ModelConfig) -> int:
    """Bytes of the keys and values of all layers, those that draft too."""
    width = config.num_key_value_heads * config.head_dim
    return 2 * KV_ITEM_BYTES * (config.num_hidden_layers + config.num_nextn_predict_layers) * width


@dataclass(frozen=True)
class ModelSizes:
    """Bytes of a model in the formats of a pack, known before any weight is read."""

    dense: int  # read for every token
    embedding: int  # of which a token reads a row
    experts: ExpertGeometry
    kv_per_token: int

    @classmethod
    def of_entries(cls, config: ModelConfig, dense: Iterable[DenseEntry], experts: ExpertGeometry) -> ModelSizes:
        """The sizes of a pack, by the entries of its manifest."""
        entries = tuple(dense)
        embedding = sum(entry.nbytes for entry in entries if entry.name == EMBEDDING)
        return cls(entries[-1].end - embedding, embedding, experts, _kv_per_token(config))

    @classmethod
    def of_config(cls, config: ModelConfig, experts: Format, dense: Format) -> ModelSizes:
        """The sizes that a pack in these formats would have; what a pack keeps in floats is taken for bf16."""
        plain = [(t.name, False, _plain_format(t.name), t.shape) for t in plain_tensors(config)]
        matrices = [(m.name, True, dense, (m.rows, m.columns)) for m in dense_matrices(config)]
        hidden, inner = config.hidden_size, config.moe_intermediate_size
        geometry = ExpertGeometry(expert_layers(config), config.num_experts, experts, experts, hidden, inner)
        return cls.of_entries(config, place([*plain, *matrices]), geometry)

    @property
    def total(self) -> int:
        return self.dense + self.embedding + self.experts.nbytes


@dataclass(frozen=True)
class MemoryPlan:
    """How a budget is divided, in bytes. `slots` experts may be in memory, of `experts`; `told` by a person."""

    placement: Placement
    budget: int
    told: bool
    process: int
    dense: int
    embedding: int
    kv: int
    workspace: int
    slots: int
    experts: int
    slot_bytes: int
    kv_blocks: int
    batch_tokens: int

    @property
    def total(self) -> int:
        return self.process + self.dense + self.embedding + self.kv + self.workspace + self.slots * self.slot_bytes

    @property
    def resident_share(self) -> float:
        return self.slots / self.experts if self.experts else 1.0


def plan_memory(
    sizes: ModelSizes, config: ModelConfig, engine: EngineConfig, *, usable: int, process: int
) -> MemoryPlan:
    """Divides what the engine may take of `usable` bytes, of which the process has `process` already.

    Raises CapacityError, with the shortfall, when not even the fewest slots fit, or when experts would have to be read
    from disk and must not be; OptionError when fewer slots than experts are told for such a run.
    """
    division = _Division(sizes, config, engine, _budget(engine.ram, usable), usable, process)
    budget, every = division.budget, sizes.experts.blobs
    whole = division.plan("mapped", engine.max_batch_tokens or MAPPED_BATCH, every)
    if engine.slots is None and whole.total <= budget:
        return whole
    wanted = _wanted_slots(engine.slots, every)
    if not engine.disk and wanted != every:
        raise _needs_disk(whole) if wanted is None else _contradiction(wanted, every)
    least = division.least(wanted or 1)
    if least.total > budget:
        raise _too_large(least)
    return least if wanted else replace(least, slots=min(every, 1 + (budget - least.total) // least.slot_bytes))


def process_memory() -> int:
    """Resident bytes of this process."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return IDLE_PROCESS
    return pages * 4096


def peak_memory() -> int:
    """The most bytes of this process that were ever resident, mapped pages included."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status does not tell the peak")


def available(process: int) -> int:
    """What this process may have in all: what is free, and what it has already."""
    return usable_memory() + process


def workspace_bytes(config: ModelConfig, tokens: int, sequences: int) -> int:
    """An upper bound of the activations that a batch of so many tokens needs at once."""
    attention = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    inner = max(config.num_experts_per_tok * config.moe_intermediate_size, config.intermediate_size)
    row = 4 * (8 * config.hidden_size + 3 * attention + 2 * inner)
    return tokens * row + sequences * 4 * 4 * config.vocab_size


@dataclass(frozen=True)
class _Division:
    """What is divided, and among what."""

    sizes: ModelSizes
    config: ModelConfig
    engine: EngineConfig
    budget: int
    usable: int
    process: int

    def least(self, slots: int) -> MemoryPlan:
        """A plan for so many slots with the largest batch that fits, or the smallest where none does."""
        plans = [self.plan("paged", batch, slots) for batch in self._paged_batches()]
        return next((plan for plan in plans if plan.total <= self.budget), plans[-1])

    def plan(self, placement: Placement, batch: int, slots: int) -> MemoryPlan:
        sizes, experts = self.sizes, self.sizes.experts
        touched = sizes.embedding if placement == "mapped" else min(sizes.embedding, batch * TOUCHED_PER_TOKEN)
        workspace = workspace_bytes(self.config, batch, self.engine.max_sequences)
        fixed = self.process + GROWTH + sizes.dense + touched + workspace + slots * experts.blob_bytes
        block_bytes = self.engine.block_size * sizes.kv_per_token
        blocks = self._kv_blocks(block_bytes, self.budget - fixed)
        return MemoryPlan(
            placement=placement,
            budget=self.budget,
            told=self.engine.ram is not None,
            process=self.process + GROWTH,
            dense=sizes.dense,
            embedding=touched,
            kv=blocks * block_bytes,
            workspace=workspace,
            slots=slots,
            experts=experts.blobs,
            slot_bytes=experts.blob_bytes,
            kv_blocks=blocks,
            batch_tokens=batch,
        )

    @property
    def _context(self) -> int:
        return min(self.engine.context or self.config.context, self.config.context)

    def _paged_batches(self) -> list[int]:
        """Sizes of a batch to be tried, the largest first."""
        told, sequences = self.engine.max_batch_tokens, self.engine.max_sequences
        if told is not None:
            return [told]
        most = self.budget * BATCH_SHARE
        fitting = [n for n in PAGED_BATCHES if workspace_bytes(self.config, n, sequences) <= most]
        return [max(MAPPED_BATCH, min(n, self._context)) for n in [*fitting, MAPPED_BATCH]]

    def _kv_blocks(self, block_bytes: int, room: int) -> int:
        """As told, else one full context and room for each other sequence, as memory allows; one at least."""
        engine = self.engine
        if engine.kv_blocks is not None:
            return engine.kv_blocks
        if engine.kv is not None:
            return max(1, _bytes(engine.kv, self.usable) // block_bytes)
        others = min(self._context, TOKENS_PER_SEQUENCE) * (engine.max_sequences - 1)
        wanted = -(-(self._context + others) // engine.block_size)
        return min(wanted, 1 + int(max(0, room - block_bytes) * KV_SHARE) // block_bytes)


def _budget(ram: Amount | None, usable: int) -> int:
    return int(usable * (1 - LEFT_FREE)) if ram is None else _bytes(ram, usable)


def _bytes(amount: Amount, usable: int) -> int:
    return amount.of(usable) if isinstance(amount, Share) else amount


def _wanted_slots(slots: Amount | None, every: int) -> int | None:
    if slots is None:
        return None
    return max(1, slots.of(every)) if isinstance(slots, Share) else min(slots, every)


def _plain_format(name: str) -> Format:
    return Format.parse("fp32" if name.endswith("expert_bias") else "bf16")


def _too_large(least: MemoryPlan) -> CapacityError:
    missing = least.total - least.budget
    return CapacityError(
        f"{gib(least.total)} are needed with {least.slots:,} of {least.experts:,} experts in memory, and "
        f"{gib(least.budget)} may be used: {gib(missing)} ({missing:,} bytes) are missing",
        "Allow more with --ram, or take less with --context, --kv or --slots.",
        shortfall=missing,
    )


def _needs_disk(whole: MemoryPlan) -> CapacityError:
    missing = whole.total - whole.budget
    return CapacityError(
        f"all experts in memory take {gib(whole.total)}, and {gib(whole.budget)} may be used: {gib(missing)} "
        f"({missing:,} bytes) are missing",
        "Allow more with --ram, or leave --no-disk out.",
        shortfall=missing,
    )


def _contradiction(slots: int, every: int) -> OptionError:
    return OptionError(
        f"{slots:,} of {every:,} experts are to be in memory, and the others must not be read from disk",
        "Leave --slots or --no-disk out.",
    )
