"""A plan for a model's directory: from its manifest or its config.json and a machine, before any weight is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from kernels.formats import Format, FormatError
from runtime.checkpoint import expected_tensors
from runtime.config import EngineConfig, ModelConfig
from runtime.experts.profile import load_profile
from runtime.gpu.vram import available_vram
from runtime.inventory import dense_matrices
from runtime.memory import IDLE_PROCESS, ModelSizes
from runtime.pack import is_pack
from runtime.pack_manifest import Manifest
from runtime.packing import DENSE_FORMAT, EXPERTS_FORMAT, FormatChoiceError, parse_format
from runtime.prediction.hit_curves import expected_hits
from runtime.prediction.planned_machine import PlannedMachine, disk_of, this_machine
from runtime.prediction.predict import PROMPT, Prediction, predict
from runtime.rates import Rate

Kind = Literal["pack", "checkpoint", "config.json alone"]


@dataclass(frozen=True)
class ToldMachine:
    """What is told of a machine; None is taken from this one. `vram` 0: it has no GPU."""

    ram: int | None = None
    vram: int | None = None
    cores: int | None = None
    dram: Rate | None = None
    disk: Rate | None = None
    pcie: Rate | None = None


@dataclass(frozen=True)
class PlannedModel:
    """What was planned: `kind` is what the directory holds, `formats` those planned in, `parameters` all weights."""

    kind: Kind
    formats: dict[str, str]
    parameters: int
    pack_bytes: int
    prompt: int
    machine: PlannedMachine
    prediction: Prediction


def plan_model(
    path: str | Path,
    engine: EngineConfig,
    told: ToldMachine = ToldMachine(),
    *,
    experts: str | None = None,
    dense: str | None = None,
    prompt: int = PROMPT,
) -> PlannedModel:
    """Plans a pack as it is, and anything else with a config.json as a pack in these formats.

    Measures what of this machine was not told. Raises ConfigError, CheckpointError, FormatChoiceError, or OSError
    where a file cannot be read.
    """
    directory = Path(path)
    kind, config, sizes, formats, random = _described(directory, experts, dense)
    totals = load_profile(engine.profile, sizes.experts) if engine.profile else None
    shape = {"experts": config.num_experts, "experts_per_token": config.num_experts_per_tok}
    hits = expected_hits(totals, random_weights=random, **shape)
    disk = told.disk or disk_of(directory, sizes.experts.blob_bytes, engine.readers)
    machine = _machine(engine, told, disk)
    prediction = predict(sizes, config, engine, machine, hits=hits, prompt=prompt)
    parameters = sum(tensor.elements for tensor in expected_tensors(config))
    return PlannedModel(kind, formats, parameters, sizes.total, prompt, machine, prediction)


def _described(
    directory: Path, experts: str | None, dense: str | None
) -> tuple[Kind, ModelConfig, ModelSizes, dict[str, str], bool]:
    """What a directory holds, its config, its sizes in the formats planned, and whether its weights are random."""
    config = ModelConfig.from_directory(directory)
    if is_pack(directory):
        if experts or dense:
            raise FormatChoiceError(f"{directory} is a pack, whose formats are its own", "Leave the formats out.")
        manifest = Manifest.read(directory)
        config = replace(config, num_nextn_predict_layers=manifest.mtp_layers)
        sizes = ModelSizes.of_entries(config, manifest.dense, manifest.experts)
        return "pack", config, sizes, dict(manifest.formats), manifest.is_random
    chosen = parse_format(experts or EXPERTS_FORMAT), parse_format(dense or DENSE_FORMAT)
    _check_shapes(config, *chosen)
    formats = {"experts": str(chosen[0]), "dense": str(chosen[1])}
    kind: Kind = "checkpoint" if any(directory.glob("*.safetensors")) else "config.json alone"
    return kind, config, ModelSizes.of_config(config, *chosen), formats, False


def _check_shapes(config: ModelConfig, experts: Format, dense: Format) -> None:
    hidden, inner = config.hidden_size, config.moe_intermediate_size
    try:
        experts.check(2 * inner, hidden)
        experts.check(hidden, inner)
        for matrix in dense_matrices(config):
            dense.check(matrix.rows, matrix.columns)
    except FormatError as error:
        raise FormatChoiceError(str(error), "Choose other formats with --experts and --dense.") from error


def _machine(engine: EngineConfig, told: ToldMachine, disk: Rate) -> PlannedMachine:
    here = this_machine(engine.threads, dram=told.dram)
    return replace(
        here,
        ram=here.ram if told.ram is None else told.ram,
        process=here.process if told.ram is None else IDLE_PROCESS,
        cores=told.cores or here.cores,
        disk=disk,
        vram=_vram(engine.device) if told.vram is None else told.vram,
        pcie=told.pcie or here.pcie,
    )


def _vram(device: str) -> int:
    """Bytes that may be had of the device's memory, 0 for a CPU."""
    return available_vram(device) if torch.device(device).type == "cuda" else 0
