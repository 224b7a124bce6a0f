"""Opens a pack on a GPU: divides its memory and the host's, and builds what computes small batches."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Protocol

import torch

from kernels.cpu.variants import Variant
from kernels.gpu.driver import Driver
from kernels.gpu.policy import Policy
from kernels.gpu.tables import ExpertShape
from kernels.registry import Announce
from runtime.config import EngineConfig, ModelConfig
from runtime.errors import OptionError, gib
from runtime.experts.cost import CostTable
from runtime.experts.lookahead import Lookahead
from runtime.experts.policy import HALF_LIFE, PROTECTED, Rhythm, make_policy
from runtime.experts.profile import load_profile
from runtime.experts.store import ExpertStore
from runtime.gpu.branches import Branches
from runtime.gpu.costs import Correction
from runtime.gpu.dense_step import DenseStep
from runtime.gpu.device_experts import DeviceExperts
from runtime.gpu.expert_step import ExpertStep, Paths
from runtime.gpu.few_rows import FewRows
from runtime.gpu.graphs import Graphs
from runtime.gpu.host_share import HostShare, Staging, native_variant
from runtime.gpu.measured_costs import CostProbe
from runtime.gpu.scratch import Scratch
from runtime.gpu.split import FixedSplit, MeasuredSplit, Split
from runtime.gpu.step import LayerStep
from runtime.gpu.step_tables import StepTables, unused_in_place
from runtime.gpu.vram import STAGED, GpuPlan, available_vram, plan_gpu
from runtime.layers import Progress
from runtime.memory import available, process_memory
from runtime.model import DecoderModel
from runtime.opening import Opened
from runtime.pack_layout import ExpertGeometry
from runtime.weights import Weights

# Rows of a step at most: more are a pass over the prompt.
MOST_ROWS = 63

# The part of the missing that the host computes where Triton's interpreter stands for a GPU.
INTERPRETED_SHARE = 0.5

# Where what is fetched is first copied by the host, until steps have been measured.
STAGED_COSTS = CostTable(fetch=(0, 600), in_place=(0, 200))


class Paged(Weights, Protocol):
    """Weights whose experts can be read one by one."""

    def store(self, announce: Announce | None = None) -> ExpertStore: ...


def open_on_gpu(pack: Paged, config: EngineConfig, announce: Announce | None) -> Opened:
    """The plan, and experts that are read once the model has its memory. Raises CapacityError or OptionError."""
    process = process_memory()
    free = available(process)
    vram = available_vram(config.device) if torch.device(config.device).type == "cuda" else free
    plan = plan_gpu(pack.sizes, pack.config, config, vram=vram, ram=free, process=process)
    geometry = pack.sizes.experts
    policy = device_policy(config.policy, pack.config, geometry)
    pass_layers = len(geometry.layers) - pack.config.num_nextn_predict_layers
    experts = DeviceExperts(pack.store(announce), plan, config, pass_layers)
    if announce is not None:
        announce(_chosen(plan))
    config = replace(config, kv_blocks=plan.kv_blocks, max_batch_tokens=plan.batch_tokens)
    return Opened(pack, config, plan, experts, partial(_finish, experts, policy, config, announce))


def _finish(
    experts: DeviceExperts,
    policy: Policy,
    config: EngineConfig,
    announce: Announce | None,
    model: DecoderModel,
    progress: Progress | None,
) -> None:
    """Reads the experts, and gives the model what computes small batches."""
    driver = Driver(model.device.index or 0) if model.device.type == "cuda" else None
    totals = load_profile(config.profile, experts.geometry) if config.profile else None
    experts.fill(driver, totals, progress, announce)
    model.few_rows = small_batches(experts, policy, config, model, driver, announce)


def small_batches(
    experts: DeviceExperts,
    policy: Policy,
    config: EngineConfig,
    model: DecoderModel,
    driver: Driver | None,
    announce: Announce | None,
) -> FewRows:
    """What computes small batches as `config` says, with experts that have been read. Raises OptionError."""
    shape, device = expert_shape(experts.geometry), model.device
    fetching = experts.plan.slots < experts.geometry.blobs
    variant = native_variant() if fetching and config.cpu_share != 0 else None
    staged = fetching and _needs_staging(experts, driver)
    at_once = min(experts.plan.slots, STAGED // 2) if staged else experts.plan.slots
    most = MOST_ROWS if variant or not fetching else _rows_without_host(at_once, model.config)
    tables = StepTables.allocate(model.config, policy, experts.plan.slots, most, device, staged=staged)
    host = _host_share(variant, driver, experts, tables) if variant else None
    scratch, branches = Scratch(most, device), Branches(device)
    dense = DenseStep(scratch, model.config.rms_norm_eps)
    in_place = host.tables if host else unused_in_place(tables.groups, shape, device)
    expert_step = ExpertStep(
        model.config,
        shape,
        experts.geometry.layers,
        experts.placement,
        policy,
        tables,
        in_place,
        scratch,
        dense,
        branches,
    )
    step = LayerStep(model.config, model.layers, model.norm, model.rope, scratch, dense, expert_step, branches)
    paths = Paths(
        fetching=fetching,
        host=host,
        staging=_staging(variant, driver, experts, tables) if staged else None,
        guessing=fetching and config.lookahead != "off",
        admitting=host is not None,
    )
    return FewRows(
        model.config,
        experts,
        step,
        tables,
        paths,
        Graphs(device, wanted=config.graphs, announce=announce),
        _split(experts, shape, host, tables, config, staged, announce),
        Lookahead(config.lookahead),
        most=most,
        table=config.kv_blocks or 1,
    )


def _host_share(variant: Variant, driver: Driver | None, experts: DeviceExperts, tables: StepTables) -> HostShare:
    groups, geometry = tables.groups, experts.geometry
    return HostShare.allocate(
        variant,
        driver,
        experts.host,
        expert_shape(geometry),
        layers=len(geometry.layers),
        rows=groups.most_rows,
        per_token=groups.per_token,
        experts=groups.most,
    )


def _split(
    experts: DeviceExperts,
    shape: ExpertShape,
    host: HostShare | None,
    tables: StepTables,
    config: EngineConfig,
    staged: bool,
    announce: Announce | None,
) -> Split:
    """As told, else as measured; what the interpreter takes says nothing of a device."""
    most = tables.groups.most
    if host is None or config.cpu_share is not None:
        return FixedSplit(config.cpu_share or 0.0, most)
    if experts.placement.location.device.type == "cpu":
        return FixedSplit(INTERPRETED_SHARE, most)
    costs = STAGED_COSTS
    if not staged:
        probe = CostProbe(shape, experts.placement, experts.buffer, host, experts.host.frames, tables.groups.per_token)
        costs = probe.table()
    told = announce or (lambda said: None)
    return MeasuredSplit(Correction(costs, most, announce=told))


def _needs_staging(experts: DeviceExperts, driver: Driver | None) -> bool:
    """Whether the device can't read the frames; without a driver there is no other memory."""
    return driver is not None and not experts.host.pinned


def _staging(
    variant: Variant | None, driver: Driver | None, experts: DeviceExperts, tables: StepTables
) -> tuple[Staging, Staging]:
    """Raises OptionError where experts cannot be staged."""
    if experts.placement.exclusive:
        raise OptionError(
            "RAM has no room for all experts, and what is kept once must be pinned, which the driver refused",
            "Raise the limit of locked memory (ulimit -l), allow more with --ram, or use --device cpu.",
        )
    variant = variant or native_variant()
    if variant is None:
        raise OptionError("experts that are not pinned are copied by C++ kernels, and there are none", "Install g++.")
    needed, ahead = (Staging.allocate(variant, driver, experts.host, f) for f in (tables.needed, tables.ahead))
    return needed, ahead


def _rows_without_host(slots: int, config: ModelConfig) -> int:
    """Of a step whose every expert needs a slot. Raises OptionError where that is none."""
    rows = min(MOST_ROWS, slots // config.num_experts_per_tok)
    if rows == 0:
        raise OptionError(
            f"a token needs {config.num_experts_per_tok} experts at once, and {slots} have a slot",
            "Allow more slots, or let the CPU compute what has none: leave --cpu-share out, and install g++.",
        )
    return rows


def expert_shape(geometry: ExpertGeometry) -> ExpertShape:
    return ExpertShape(geometry.gate_up, geometry.down, geometry.hidden, geometry.inner, geometry.down_offset)


def _chosen(plan: GpuPlan) -> str:
    share = f"{100 * plan.resident_share:.0f}%, {gib(plan.slots * plan.slot_bytes)}"
    said = f"{plan.slots:,} of {plan.experts:,} experts ({share}) have a slot on the GPU"
    if plan.slots == plan.experts:
        return f"{said}."
    once = ", each of which is in one place alone, as RAM has no room for all" if plan.exclusive else ""
    return f"{said}; {plan.frames:,} are kept in RAM ({gib(plan.frames * plan.slot_bytes)}){once}."


def device_policy(name: str | None, config: ModelConfig, geometry: ExpertGeometry) -> Policy:
    """What the device needs to know of a policy. Raises OptionError for one that does not exist."""
    rhythm = Rhythm.of(len(geometry.layers), geometry.count, config.num_experts_per_tok)
    made = make_policy(name, rhythm)
    return Policy(made.name, rhythm.layers, geometry.count, HALF_LIFE * rhythm.reuse * rhythm.layers, PROTECTED)
