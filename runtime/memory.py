"""What goes where: the bytes of a model by part, and how a budget of memory is divided among them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kernels.formats import Format
from runtime.config import Amount, EngineConfig, ModelConfig, Share
from runtime.errors import CapacityError
from runtime.hardware import usable_memory
from runtime.inventory import EMBEDDING, dense_matrices, expert_layers, plain_tensors
from runtime.pack_layout import DenseEntry, ExpertGeometry, place

Placement = Literal["mapped", "paged"]

# Of what is left for the cache of keys and values and for experts, the part that the former may take unless told.
KV_SHARE = 0.25
# Room for each sequence beside the one that may fill the context.
TOKENS_PER_SEQUENCE = 2048

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
        width = config.num_key_value_heads * config.head_dim
        layers = config.num_hidden_layers + config.num_nextn_predict_layers
        return cls(entries[-1].end - embedding, embedding, experts, 2 * KV_ITEM_BYTES * layers * width)

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
    from disk and must not be.
    """
    budget = _budget(engine.ram, usable)
    every = sizes.experts.blobs
    whole = _divided(sizes, config, engine, budget, usable, process, "mapped", every)
    if engine.slots is None and whole.total <= budget:
        return whole
    least = _divided(sizes, config, engine, budget, usable, process, "paged", 1)
    wanted = _wanted_slots(engine.slots, every)
    room = 1 + (budget - least.total) // least.slot_bytes if budget >= least.total else 0
    slots = min(every, room if wanted is None else wanted)
    if slots < 1 or slots > room:
        raise _too_large(least, max(1, slots), budget, whole)
    if not engine.disk and slots < every:
        raise _needs_disk(whole, budget)
    return _divided(sizes, config, engine, budget, usable, process, "paged", slots)


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


def _divided(
    sizes: ModelSizes,
    config: ModelConfig,
    engine: EngineConfig,
    budget: int,
    usable: int,
    process: int,
    placement: Placement,
    slots: int,
) -> MemoryPlan:
    batch = _batch_tokens(config, engine, budget, placement)
    mapped = placement == "mapped"
    embedding = sizes.embedding if mapped else min(sizes.embedding, batch * TOUCHED_PER_TOKEN)
    workspace = workspace_bytes(config, batch, engine.max_sequences)
    fixed = process + GROWTH + sizes.dense + embedding + workspace
    block_bytes = engine.block_size * sizes.kv_per_token
    held = sizes.experts.nbytes if mapped else 0
    blocks = _kv_blocks(config, engine, block_bytes, usable, budget - fixed - held)
    return MemoryPlan(
        placement=placement,
        budget=budget,
        told=engine.ram is not None,
        process=process + GROWTH,
        dense=sizes.dense,
        embedding=embedding,
        kv=blocks * block_bytes,
        workspace=workspace,
        slots=slots,
        experts=sizes.experts.blobs,
        slot_bytes=sizes.experts.blob_bytes,
        kv_blocks=blocks,
        batch_tokens=batch,
    )


def workspace_bytes(config: ModelConfig, tokens: int, sequences: int) -> int:
    """An upper bound of the activations that a batch of so many tokens needs at once."""
    attention = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    inner = max(config.num_experts_per_tok * config.moe_intermediate_size, config.intermediate_size)
    row = 4 * (8 * config.hidden_size + 3 * attention + 2 * inner)
    return tokens * row + sequences * 4 * 4 * config.vocab_size


def _batch_tokens(config: ModelConfig, engine: EngineConfig, budget: int, placement: Placement) -> int:
    if engine.max_batch_tokens is not None:
        return engine.max_batch_tokens
    context = min(engine.context or config.context, config.context)
    if placement == "mapped":
        return MAPPED_BATCH
    fitting = (n for n in PAGED_BATCHES if workspace_bytes(config, n, engine.max_sequences) <= budget * BATCH_SHARE)
    return max(MAPPED_BATCH, min(next(fitting, MAPPED_BATCH), context))


def _kv_blocks(config: ModelConfig, engine: EngineConfig, block_bytes: int, usable: int, room: int) -> int:
    """As told, else one full context and room for each other sequence, as memory allows."""
    if engine.kv_blocks is not None:
        return engine.kv_blocks
    if engine.kv is not None:
        return max(1, _bytes(engine.kv, usable) // block_bytes)
    context = min(engine.context or config.context, config.context)
    others = min(context, TOKENS_PER_SEQUENCE) * (engine.max_sequences - 1)
    wanted = -(-(context + others) // engine.block_size)
    return max(1, min(wanted, int(max(0, room) * KV_SHARE) // block_bytes))


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


def _too_large(least: MemoryPlan, slots: int, budget: int, whole: MemoryPlan) -> CapacityError:
    needed = least.total + (slots - 1) * least.slot_bytes
    return CapacityError(
        f"{needed:,} bytes are needed with {slots} of {least.experts} experts in memory, and {budget:,} may be used: "
        f"{needed - budget:,} are missing",
        "Allow more with --ram, or take less with --context, --kv or --slots.",
        shortfall=needed - budget,
    )


def _needs_disk(whole: MemoryPlan, budget: int) -> CapacityError:
    return CapacityError(
        f"all experts in memory take {whole.total:,} bytes, and {budget:,} may be used: "
        f"{whole.total - budget:,} are missing",
        "Allow more with --ram, or let experts be read from disk: leave --no-disk and --slots out.",
        shortfall=max(0, whole.total - budget),
    )
