"""What goes where on a machine with a GPU: what every token uses and slots in VRAM, all experts in pinned RAM."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.config import Amount, EngineConfig, ModelConfig, Share
from runtime.errors import CapacityError
from runtime.memory import GROWTH, KV_SHARE, LEFT_FREE, TOKENS_PER_SEQUENCE, ModelSizes, workspace_bytes
from runtime.prediction.planned_machine import PlannedMachine
from runtime.prediction.work import kv_per_token

# What a CUDA context, its libraries and its allocator take of a card.
CUDA_CONTEXT = 600 << 20

# A pass over the pool costs the same for so many tokens of a prompt as for few.
GPU_BATCH = 4096

# Keys and values are kept in bf16 on a GPU, and counted in fp32 by ModelSizes.
KV_WIDTH = 0.5


@dataclass(frozen=True)
class GpuPlan:
    """How VRAM and RAM are divided, in bytes. `slots` experts are in VRAM, of `experts`, and `host_slots` in RAM.

    `ram_short` is what RAM lacks for all experts beside everything else, 0 where it has room.
    """

    vram_budget: int
    ram_budget: int
    context: int
    process: int
    embedding: int
    dense: int
    kv: int
    workspace: int
    slots: int
    host_slots: int
    experts: int
    slot_bytes: int
    batch_tokens: int
    ram_short: int

    @property
    def resident_share(self) -> float:
        return self.slots / self.experts if self.experts else 1.0

    @property
    def host_share(self) -> float:
        return self.host_slots / self.experts if self.experts else 1.0


def plan_gpu(sizes: ModelSizes, config: ModelConfig, engine: EngineConfig, machine: PlannedMachine) -> GpuPlan:
    """Divides VRAM and RAM. Raises CapacityError when no slot fits, or RAM lacks room for all but the pool."""
    budget = _budget(engine.vram, machine.vram)
    batch = min(engine.max_batch_tokens or GPU_BATCH, _context(config, engine))
    workspace = workspace_bytes(config, batch, engine.max_sequences) // 2
    fixed = CUDA_CONTEXT + sizes.dense + workspace
    kv = _kv_bytes(sizes, config, engine, machine.vram, budget - fixed)
    slots = _slots(engine, sizes, budget - fixed - kv)
    ram = _budget(engine.ram, machine.ram)
    process = machine.process + GROWTH
    room = ram - process - sizes.embedding
    if room < 0:
        raise CapacityError(
            f"{process + sizes.embedding:,} bytes of RAM are needed beside the experts, and {ram:,} may be used: "
            f"{-room:,} are missing",
            "Allow more with --ram.",
            shortfall=-room,
        )
    in_vram = slots == sizes.experts.blobs
    held = 0 if in_vram else min(sizes.experts.blobs, room // sizes.experts.blob_bytes)
    return GpuPlan(
        vram_budget=budget,
        ram_budget=ram,
        context=CUDA_CONTEXT,
        process=process,
        embedding=sizes.embedding,
        dense=sizes.dense,
        kv=kv,
        workspace=workspace,
        slots=slots,
        host_slots=held,
        experts=sizes.experts.blobs,
        slot_bytes=sizes.experts.blob_bytes,
        batch_tokens=batch,
        ram_short=0 if in_vram else max(0, sizes.experts.nbytes - room),
    )


def _slots(engine: EngineConfig, sizes: ModelSizes, room: int) -> int:
    every, blob = sizes.experts.blobs, sizes.experts.blob_bytes
    wanted = engine.slots.of(every) if isinstance(engine.slots, Share) else engine.slots
    least = min(every, max(1, wanted)) if wanted is not None else min(every, 1)
    if least * blob > room:
        short = least * blob - room
        raise CapacityError(
            f"{short:,} bytes of VRAM are missing for {least:,} of {every:,} experts",
            "Allow more with --vram, or take less with --context, --kv or --slots; or plan without it: --gpu none.",
            shortfall=short,
        )
    return least if wanted is not None else min(every, room // blob)


def _kv_bytes(sizes: ModelSizes, config: ModelConfig, engine: EngineConfig, vram: int, room: int) -> int:
    """As told, else one full context and room for each other sequence, as memory allows."""
    if engine.kv is not None:
        return engine.kv.of(vram) if isinstance(engine.kv, Share) else engine.kv
    context = _context(config, engine)
    tokens = context + min(context, TOKENS_PER_SEQUENCE) * (engine.max_sequences - 1)
    block = int(KV_WIDTH * kv_per_token(sizes, config) * engine.block_size)
    return max(1, min(-(-tokens // engine.block_size), int(max(0, room) * KV_SHARE) // block)) * block


def _context(config: ModelConfig, engine: EngineConfig) -> int:
    return min(engine.context or config.context, config.context)


def _budget(told: Amount | None, whole: int) -> int:
    if told is None:
        return int(whole * (1 - LEFT_FREE))
    return told.of(whole) if isinstance(told, Share) else told
