"""What goes where on a machine with a GPU: what every token uses and slots in VRAM, experts in frames in RAM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels.registry import Announce
from runtime.config import Amount, EngineConfig, ModelConfig, Share
from runtime.errors import CapacityError, gib
from runtime.memory import GROWTH, KV_SHARE, LEFT_FREE, TOKENS_PER_SEQUENCE, ModelSizes, workspace_bytes

# What a CUDA context, its libraries and its allocator take of a card, and what they take of RAM beside the context's
# process. Assumed.
CUDA_CONTEXT = 600 << 20
CUDA_ON_HOST = 600 << 20

# Tokens of a prompt that are computed at once: from the least to the most, in steps.
LEAST_BATCH = 512
MOST_BATCH = 4096
BATCH_STEP = 256

# Bytes of scores that a prompt's attention keeps at once, at most: MOST_SCORES of kernels/gpu/prefill_attention.py.
KEPT_SCORES = 256 << 20

# Experts in each of the two buffers that a prompt's experts stream through: the least, and a layer's at most.
LEAST_STREAMED = 16

# Of the VRAM beyond the least of everything, the parts that larger batches and larger buffers may have. KV_SHARE is the
# part of keys and values. The denominators divide GRAIN, so that more VRAM is never fewer slots by a rounding.
BATCH_SHARE = 1 / 16
BUFFER_SHARE = 1 / 16
GRAIN = 64

# Rows of a decode step whose attention over a whole context there is room for at once: ATTENTION_ROWS of a step.
DECODE_ROWS = 16

# Frames beside those of the experts that have no slot, where each expert is kept once.
SPARE_FRAMES = 16

# Experts that a ring in pinned memory holds, through which they go where their frames could not be pinned.
STAGED = 32

# Slots are given up in steps of this part of them when a card refuses what it said was free.
STEP_DOWN = 0.05

WITHOUT_GPU = "or leave the GPU out: --device cpu (antangel plan: --gpu none)."


@dataclass(frozen=True)
class GpuPlan:
    """How VRAM and RAM are divided, in bytes. `slots` experts may be in VRAM, of `experts`, and `frames` in RAM.

    `exclusive`: RAM has no room for all experts, and each of them is in a slot or in a frame, once. Where all have a
    slot there are neither frames nor `buffers`. `buffers` are two, which experts stream through for a prompt, and
    `staging` is what they go through where frames can't be pinned. Fewer than `least_slots` were not asked for.
    """

    vram_budget: int
    ram_budget: int
    context: int
    process: int
    embedding: int
    dense: int
    kv: int
    kv_blocks: int
    workspace: int
    buffers: int
    slots: int
    least_slots: int
    frames: int
    exclusive: bool
    staging: int
    experts: int
    per_layer: int
    slot_bytes: int
    batch_tokens: int

    @property
    def budget(self) -> int:
        """What the process may take of RAM."""
        return self.ram_budget

    @property
    def placement(self) -> str:
        return "gpu"

    @property
    def vram_total(self) -> int:
        return self.vram_fixed + self.buffers + self.slots * self.slot_bytes

    @property
    def vram_fixed(self) -> int:
        """What is in VRAM beside slots and buffers."""
        return self.context + self.dense + self.kv + self.workspace

    @property
    def ram_total(self) -> int:
        return self.ram_fixed + self.frames * self.slot_bytes

    @property
    def ram_fixed(self) -> int:
        """What is in RAM beside frames."""
        return self.process + self.embedding + self.staging

    @property
    def streamed(self) -> int:
        """Experts in each of the two buffers."""
        return self.buffers // (2 * self.slot_bytes)

    @property
    def resident_share(self) -> float:
        return self.slots / self.experts if self.experts else 1.0


def available_vram(device: torch.device | str) -> int:
    """What this process may have of a card in all: what is free, and what its context and its allocator have."""
    return int(torch.cuda.mem_get_info(device)[0]) + int(torch.cuda.memory_reserved(device)) + CUDA_CONTEXT


def plan_gpu(
    sizes: ModelSizes, config: ModelConfig, engine: EngineConfig, *, vram: int, ram: int, process: int
) -> GpuPlan:
    """Divides what the engine may take of `vram` bytes, as of available_vram, and of `ram`.

    Of RAM the process has `process` bytes already, its CUDA context included or not.

    Raises CapacityError, with the shortfall, when the least of everything does not fit into the one or the other.
    """
    plan = divide(sizes, config, engine, vram=vram, ram=ram, process=process)
    lacking = shortage(plan)
    if lacking is not None:
        raise lacking
    return plan


def divide(
    sizes: ModelSizes, config: ModelConfig, engine: EngineConfig, *, vram: int, ram: int, process: int
) -> GpuPlan:
    """As plan_gpu; where it does not fit, the plan is the least that is needed, and exceeds its budget."""
    return _Division(sizes, config, engine, vram, ram, process).plan()


def shortage(plan: GpuPlan) -> CapacityError | None:
    """What a plan exceeds its budgets by, or None."""
    missing = plan.vram_total - plan.vram_budget
    if missing > 0:
        return CapacityError(
            f"{gib(plan.vram_total)} of VRAM are needed with {plan.slots:,} of {plan.experts:,} experts in slots, "
            f"and {gib(plan.vram_budget)} may be used: {gib(missing)} ({missing:,} bytes) are missing",
            f"Allow more with --vram, or take less with --context, --kv or --slots; {WITHOUT_GPU}",
            shortfall=missing,
        )
    missing = plan.ram_total - plan.ram_budget
    if missing > 0:
        return CapacityError(
            f"{gib(plan.ram_total)} of RAM are needed with {plan.frames:,} experts that have no slot, and "
            f"{gib(plan.ram_budget)} may be used: {gib(missing)} ({missing:,} bytes) are missing, and under a GPU "
            "experts are not read from disk",
            f"Allow more with --ram, or more slots with --vram; {WITHOUT_GPU}",
            shortfall=missing,
        )
    return None


def allocate_slots(
    plan: GpuPlan, allocate: Callable[[int], Tensor], announce: Announce | None = None
) -> tuple[Tensor, GpuPlan]:
    """The memory of all slots, uint8 [N, blob bytes], and the plan as it turned out. All else is allocated before.

    `allocate` is given a number of slots. Where it raises torch.OutOfMemoryError there will be fewer, and `announce` is
    told how many remain; the plan that is returned says what else has changed: frames, and buffers where there were
    none. Raises CapacityError when not even the least can be had: its shortfall is all that they take.
    """
    plans = _smaller_plans(plan)
    for fewer in plans:
        slots = _attempt(allocate, fewer.slots)
        if slots is None:
            continue
        if announce is not None and fewer.slots < plan.slots:
            announce(
                f"{fewer.slots:,} of {plan.experts:,} experts have a slot in VRAM, not {plan.slots:,}: "
                "the card has less room than it said"
            )
        return slots, fewer
    raise _no_slots(plans[-1])


def _attempt(allocate: Callable[[int], Tensor], slots: int) -> Tensor | None:
    """None where there is no room; what was raised is let go before the next attempt."""
    try:
        return allocate(slots)
    except torch.OutOfMemoryError:
        return None


def _smaller_plans(plan: GpuPlan) -> list[GpuPlan]:
    """The plan, and those with fewer and fewer slots, down to the least, as far as RAM takes what has none."""
    new_buffers = 0 if plan.buffers else 2 * _least_streamed(plan.per_layer)
    least = plan.least_slots + (new_buffers if plan.least_slots < plan.experts else 0)
    step = max(1, int(plan.slots * STEP_DOWN))
    counts = [*range(plan.slots - step, least, -step), least]
    fewer = [with_fewer_slots(plan, count) for count in counts if count < plan.slots]
    return [plan, *(one for one in fewer if one.ram_total <= one.ram_budget)]


def with_fewer_slots(plan: GpuPlan, slots: int) -> GpuPlan:
    """The same in no more VRAM than so many slots take: where all had one, two buffers are now a part of it."""
    streamed, buffers = _least_streamed(plan.per_layer), plan.buffers
    if not buffers:
        slots, buffers = slots - 2 * streamed, 2 * streamed * plan.slot_bytes
    frames = _frames(plan.experts, slots, plan.slot_bytes, plan.ram_budget - plan.ram_fixed)
    return replace(plan, slots=slots, buffers=buffers, frames=frames, exclusive=frames < plan.experts)


def _no_slots(least: GpuPlan) -> CapacityError:
    missing = least.slots * least.slot_bytes
    return CapacityError(
        f"the card has no room for {least.slots:,} of {least.experts:,} experts, the least that will do: "
        f"up to {gib(missing)} ({missing:,} bytes) are missing",
        f"End what else uses the GPU, or take less with --vram, --context or --kv; {WITHOUT_GPU}",
        shortfall=missing,
    )


@dataclass(frozen=True)
class _Division:
    """What is divided, and among what: first the least of everything, then what is left beyond, by shares."""

    sizes: ModelSizes
    config: ModelConfig
    engine: EngineConfig
    vram: int
    ram: int
    process: int

    def plan(self) -> GpuPlan:
        blob, every = self.sizes.experts.blob_bytes, self.sizes.experts.blobs
        batch, blocks, streamed = self._least_batch, self._least_blocks, self._streamed_beside(self._least_slots)
        fixed = CUDA_CONTEXT + self.sizes.dense + self._workspace(batch) + blocks * self._block_bytes
        least = self._least_slots + 2 * streamed
        if self._told_slots is None:
            least = min(every, least)
        extra = max(0, self._vram_budget - fixed - least * blob) // GRAIN * GRAIN

        to_batch = min(int(extra * BATCH_SHARE), self._workspace(self._most_batch) - self._workspace(batch))
        to_kv = min(int(extra * KV_SHARE), (self._wanted_blocks - blocks) * self._block_bytes)
        to_buffers = min(int(extra * BUFFER_SHARE), 2 * blob * (self.config.num_experts - streamed))
        batch = self._largest_batch(self._workspace(batch) + to_batch)
        blocks += to_kv // self._block_bytes

        beyond = extra - to_batch - to_kv
        if self._told_slots is not None:
            slots = self._told_slots
        elif least + beyond // blob >= every:
            slots = every
        else:
            slots = self._least_slots + (beyond - to_buffers) // blob
        streamed = 0 if slots == every else streamed + to_buffers // (2 * blob)
        return self._with_ram(batch, blocks, streamed, slots)

    def _with_ram(self, batch: int, blocks: int, streamed: int, slots: int) -> GpuPlan:
        sizes, blob, every = self.sizes, self.sizes.experts.blob_bytes, self.sizes.experts.blobs
        process = self.process + GROWTH + CUDA_ON_HOST
        staging = min(STAGED, every) * blob
        budget = _budget(self.engine.ram, self.ram)
        frames = 0 if slots == every else _frames(every, slots, blob, budget - process - sizes.embedding - staging)
        return GpuPlan(
            vram_budget=self._vram_budget,
            ram_budget=budget,
            context=CUDA_CONTEXT,
            process=process,
            embedding=sizes.embedding,
            dense=sizes.dense,
            kv=blocks * self._block_bytes,
            kv_blocks=blocks,
            workspace=self._workspace(batch),
            buffers=2 * streamed * blob,
            slots=slots,
            least_slots=self._least_slots,
            frames=frames,
            exclusive=slots < every and frames < every,
            staging=staging,
            experts=every,
            per_layer=self.config.num_experts,
            slot_bytes=blob,
            batch_tokens=batch,
        )

    @property
    def _vram_budget(self) -> int:
        return _budget(self.engine.vram, self.vram)

    @property
    def _context(self) -> int:
        return min(self.engine.context or self.config.context, self.config.context)

    @property
    def _told_slots(self) -> int | None:
        told, every = self.engine.slots, self.sizes.experts.blobs
        if told is None:
            return None
        return min(every, max(1, told.of(every) if isinstance(told, Share) else told))

    @property
    def _least_slots(self) -> int:
        return min(1, self.sizes.experts.blobs) if self._told_slots is None else self._told_slots

    def _streamed_beside(self, slots: int) -> int:
        """The least experts in each buffer beside so many slots: none where every expert has one."""
        return 0 if slots == self.sizes.experts.blobs else _least_streamed(self.config.num_experts)

    @property
    def _least_batch(self) -> int:
        return self.engine.max_batch_tokens or LEAST_BATCH

    @property
    def _most_batch(self) -> int:
        return self.engine.max_batch_tokens or max(LEAST_BATCH, min(MOST_BATCH, self._context))

    def _largest_batch(self, room: int) -> int:
        batches = range(self._least_batch, self._most_batch + 1, BATCH_STEP)
        return max((batch for batch in batches if self._workspace(batch) <= room), default=self._least_batch)

    def _workspace(self, batch: int) -> int:
        """Activations of a batch of a prompt, the attention of a decode step, and the rotary tables."""
        config, context = self.config, self._context
        blocks = -(-context // self.engine.block_size)
        scores = config.num_attention_heads * blocks * (self.engine.block_size + config.head_dim + 2)
        tables = context * config.rotary_dim
        kept = min(KEPT_SCORES, 4 * config.num_attention_heads * batch * context)
        return workspace_bytes(config, batch, self.engine.max_sequences) + 4 * (DECODE_ROWS * scores + tables) + kept

    @property
    def _block_bytes(self) -> int:
        return int(kv_width(self.engine) * self.sizes.kv_per_token) * self.engine.block_size

    @property
    def _told_blocks(self) -> int | None:
        if self.engine.kv_blocks is not None:
            return self.engine.kv_blocks
        told = self.engine.kv
        if told is None:
            return None
        return max(1, (told.of(self.vram) if isinstance(told, Share) else told) // self._block_bytes)

    @property
    def _least_blocks(self) -> int:
        return self._told_blocks or 1

    @property
    def _wanted_blocks(self) -> int:
        """As told, else one full context and room for each other sequence."""
        tokens = self._context + min(self._context, TOKENS_PER_SEQUENCE) * (self.engine.max_sequences - 1)
        return self._told_blocks or -(-tokens // self.engine.block_size)


def kv_width(engine: EngineConfig) -> float:
    """The width of cached keys and values on a GPU, in that of fp32, in which ModelSizes counts them."""
    return 0.5 if engine.dtype == "bfloat16" else 1.0


def _frames(every: int, slots: int, blob: int, room: int) -> int:
    """All experts where RAM has room for them, else those that have no slot."""
    return every if every * blob <= room else min(every, every - slots + SPARE_FRAMES)


def _least_streamed(per_layer: int) -> int:
    return min(LEAST_STREAMED, per_layer)


def _budget(told: Amount | None, whole: int) -> int:
    if told is None:
        return int(whole * (1 - LEFT_FREE))
    return told.of(whole) if isinstance(told, Share) else told
