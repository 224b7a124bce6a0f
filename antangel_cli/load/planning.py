"""Plans where a model goes and how fast it will be, before any weight is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antangel_cli.errors import ModelError
from antangel_cli.load.kept import profile_place
from antangel_cli.load.machine import device_of, engine_config
from antangel_cli.load.problems import device_problems, pack_problems
from antangel_cli.settings import Settings
from antangel_cli.source import MANIFEST, Source, manifest_hash

if TYPE_CHECKING:
    import runtime


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
    device = device_of(settings)
    try:
        with pack_problems(), device_problems(device):
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
    return profile_place(Source(path, path.name, False), manifest_hash(path))
