"""How a model is opened on a machine: what goes into which memory, and who keeps its experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from kernels.gpu import runs_on_gpu
from kernels.registry import Announce
from runtime.config import EngineConfig
from runtime.errors import OptionError, gib
from runtime.experts.pager import ExpertPager
from runtime.experts.paging import Pager
from runtime.experts.profile import load_profile
from runtime.hardware import number_type
from runtime.layers import Progress
from runtime.memory import MemoryPlan, available, plan_memory, process_memory
from runtime.pack import Pack
from runtime.weights import Weights

if TYPE_CHECKING:
    from runtime.gpu.vram import GpuPlan
    from runtime.model import DecoderModel

# Reads the experts of a model onto its device, once all else has its memory.
Finish = Callable[["DecoderModel", Progress | None], None]


@dataclass(frozen=True)
class Opened:
    """A model's place in memory before its layers are read. `finish`, where there is one, is called when they are."""

    weights: Weights
    config: EngineConfig
    memory: MemoryPlan | GpuPlan
    pager: Pager | None = None
    finish: Finish | None = None


def open_on_machine(weights: Weights, config: EngineConfig, announce: Announce | None) -> Opened:
    """Divides the memory. Raises CapacityError or OptionError."""
    on_gpu = _on_gpu(config)
    if not on_gpu:
        for option, value in (("--vram", config.vram), ("--cpu-share", config.cpu_share)):
            if value is not None:
                raise OptionError(
                    f"{option} is about a GPU and its VRAM, and this run computes on the CPU",
                    f"Leave {option} out.",
                )
    if on_gpu and isinstance(weights, Pack) and weights.sizes.experts.is_quantised and _has_kernels(config, announce):
        # Triton is needed from here on.
        from runtime.gpu.opening import open_on_gpu

        return open_on_gpu(weights, config, announce)
    if on_gpu or not weights.pageable:
        return _opened(weights, config, _whole(weights, config, on_gpu))
    process = process_memory()
    memory = plan_memory(weights.sizes, weights.config, config, usable=available(process), process=process)
    return _opened(weights, config, memory, _pager(weights, memory, config, announce))


def _on_gpu(config: EngineConfig) -> bool:
    """Whether it is a GPU that computes, or Triton's interpreter in the place of one."""
    return torch.device(config.device).type == "cuda" or "triton" in config.kernels.split()


def _has_kernels(config: EngineConfig, announce: Announce | None) -> bool:
    """Whether our kernels run on the GPU; else plain torch computes there, with every expert in VRAM."""
    device = torch.device(config.device)
    return device.type == "cpu" or runs_on_gpu(device, number_type(config.dtype, device), announce) is None


def _opened(weights: Weights, config: EngineConfig, memory: MemoryPlan, pager: Pager | None = None) -> Opened:
    config = replace(config, kv_blocks=memory.kv_blocks, max_batch_tokens=memory.batch_tokens)
    return Opened(weights, config, memory, pager)


def _whole(weights: Weights, config: EngineConfig, on_gpu: bool) -> MemoryPlan:
    """The plan of weights that are all held in memory, on a GPU or in host memory."""
    if config.slots is not None:
        which = "a pack without kernels for it" if isinstance(weights, Pack) else "a checkpoint that is not packed"
        raise OptionError(
            f"a number of slots is set, and experts of {which} are not paged",
            "Pack it first: antangel pack CHECKPOINT -o DIR.",
        )
    process = 0 if on_gpu else process_memory()
    usable = torch.cuda.mem_get_info(config.device)[0] if on_gpu else available(process)
    whole = replace(config, ram=config.vram if on_gpu else config.ram, disk=False)
    return plan_memory(weights.sizes, weights.config, whole, usable=usable, process=process)


def _pager(weights: Weights, memory: MemoryPlan, config: EngineConfig, announce: Announce | None) -> ExpertPager | None:
    """What pages the experts of a pack that is not wholly in memory; its first reads are under way."""
    if memory.placement == "mapped" or not isinstance(weights, Pack):
        return None
    store = weights.store(announce)
    pager = ExpertPager.open(
        store,
        memory.slots,
        policy=config.policy,
        lookahead=config.lookahead,
        readers=config.readers,
        experts_per_token=weights.config.num_experts_per_tok,
        pass_layers=len(store.geometry.layers) - weights.config.num_nextn_predict_layers,
    )
    weights.fetch_dense()
    totals = load_profile(config.profile, store.geometry) if config.profile else None
    if totals is not None:
        pager.warm(totals)
    if announce is not None:
        announce(_chosen(memory, config))
    return pager


def _chosen(memory: MemoryPlan, config: EngineConfig) -> str:
    share, held = 100 * memory.resident_share, gib(memory.slots * memory.slot_bytes)
    bound = "the budget" if memory.told else "what is free"
    why = "as told" if config.slots is not None else f"as {bound} of {gib(memory.budget)} allows"
    return (
        f"{memory.slots:,} of {memory.experts:,} experts ({share:.0f}%, {held}) are kept in memory, {why}; "
        "the others are read from disk when they are needed."
    )
