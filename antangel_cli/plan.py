"""`antangel plan`: will a model fit, where does it go, and how fast will it be; before any weight is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antangel_cli import load, source
from antangel_cli.errors import ModelError, UsageError
from antangel_cli.settings import Settings
from antangel_cli.sizes import parse_size, show_bytes
from antangel_cli.terminal import Terminal

PLAN_SCHEMA = "antangel.plan/1"

# Tokens of the prompt whose first token is predicted: a case with its instructions.
PROMPT = 1000

FITS = {
    "vram": "every expert is in the GPU's memory",
    "ram": "every expert is in memory",
    "disk": "experts are read from disk as they are needed",
    "no": "it needs at least what follows",
}

EXCLUSIVE = "every expert is in memory once, in the GPU's or in the host's, which has no room for copies"

GPU_NOTE = (
    "Figures for a GPU are predicted by formulas from its memory and rates: we have measured none of them on one."
)


@dataclass(frozen=True)
class PlanOptions:
    """What is planned, in which formats, for which load, and what is told of the machine; None: as it is here."""

    model: str | None = None
    prompt: int | None = None
    batch: int | None = None
    experts: str | None = None
    dense: str | None = None
    gpu: str | None = None
    pcie: str | None = None
    dram: str | None = None
    disk: str | None = None
    cores: int | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "batch", "cores"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} must be a whole number from 1 up.", "Correct the value.")

    @property
    def describes_a_machine(self) -> bool:
        """Whether --ram is then what a machine has, not a bound on the process."""
        return any(value is not None for value in (self.gpu, self.pcie, self.dram, self.disk, self.cores))

    def told(self, settings: Settings) -> load.ToldMachine:
        """What is told of the machine, parsed. Raises UsageError."""
        ram = settings.ram if self.describes_a_machine else None
        if isinstance(ram, float):
            raise UsageError("--ram is a share, of a machine that is described.", "Give its memory: --ram 64GB.")
        return load.ToldMachine(
            ram=ram,
            vram=0 if self.gpu == "none" else _bytes("--gpu", self.gpu, "none or a size like 24GB"),
            cores=self.cores,
            dram=_rate("--dram", self.dram),
            disk=_rate("--disk", self.disk),
            pcie=self.pcie if self.pcie in ("3", "4", "5") else _rate("--pcie", self.pcie, "3, 4, 5 or "),
        )


def plan(settings: Settings, options: PlanOptions) -> int:
    """Print the plan. Exit 4 where the model does not fit, or fits only in what was forbidden."""
    terminal = Terminal.of(settings)
    path = _path(settings, options)
    found = load.plan_model(
        settings,
        path,
        options.told(settings),
        formats={"experts": options.experts, "dense": options.dense},
        prompt=options.prompt or PROMPT,
        batch=options.batch or 1,
    )
    record = {"schema": PLAN_SCHEMA, "status": "ok", "model": str(path), **found}
    refusal = _refusal(found["prediction"])
    if refusal is not None:
        record |= {"status": "error", "error": refusal.record}
    if settings.json:
        terminal.answer(json.dumps(record, ensure_ascii=False))
    else:
        terminal.answer("\n\n".join(_page(terminal, record)))
    if refusal is None:
        return 0
    terminal.failure(refusal)
    return refusal.exit_code


def _path(settings: Settings, options: PlanOptions) -> Path:
    if options.model is not None and settings.origin("model") == "--model":
        raise UsageError("The model is given twice, as an argument and with -m.", "Leave one of them out.")
    named = options.model or settings.model
    path = Path(named).expanduser().absolute() if named else source.EMBEDDED
    if not path.is_dir():
        raise ModelError(f"{path} is no directory.", source.set_up_hint(), code="model_missing")
    return path


def _refusal(prediction: dict[str, Any]) -> ModelError | None:
    if not prediction["problem"]:
        return None
    missing = show_bytes(prediction["shortfall"])
    return ModelError(
        f"The model does not fit, by {missing}: {prediction['problem']}.", prediction["remedy"], code="does_not_fit"
    )


def _bytes(flag: str, text: str | None, wanted: str) -> int | None:
    if text is None:
        return None
    try:
        size = parse_size(text)
    except ValueError:
        size = 0.0
    if isinstance(size, float):
        raise UsageError(f"{flag} must be {wanted}.", "Correct the value.")
    return size


def _rate(flag: str, text: str | None, other: str = "") -> int | None:
    size = None if text is None else text.strip().removesuffix("/s")
    return _bytes(flag, size, f"{other}a rate like 90GB/s")


def _page(terminal: Terminal, record: dict[str, Any]) -> list[str]:
    prediction, machine = record["prediction"], record["machine"]
    page = [
        f"{record['model']}: {_planned_as(record)}",
        f"fits: {prediction['fits']} ({_where(prediction)})",
        terminal.rows("Memory", _memory(prediction)),
    ]
    if prediction["tokens_per_s"]:
        page.append(terminal.rows("Speed, expected", _speed(record)))
    page.append(terminal.rows("Machine", _machine(machine)))
    return page + ([GPU_NOTE] if machine["vram"] else [])


def _where(prediction: dict[str, Any]) -> str:
    fits = prediction["fits"]
    return EXCLUSIVE if fits == "ram" and prediction["exclusive"] else FITS[fits]


def _planned_as(record: dict[str, Any]) -> str:
    what = {"pack": "a pack", "checkpoint": "a checkpoint, planned as a pack"}
    kind = what.get(record["kind"], f"{record['kind']}, planned as a pack")
    formats = ", ".join(f"{part} {name}" for part, name in record["formats"].items())
    count = record["parameters"]
    parameters = f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"
    return f"{kind} ({formats}), {parameters} parameters in {show_bytes(record['pack_bytes'])}"


def _memory(prediction: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for memory, budget in [*prediction["budgets"].items(), ("disk", None)]:
        tiers = [tier for tier in prediction["tiers"] if tier["memory"] == memory]
        rows += [(memory, tier["part"], f"{show_bytes(tier['bytes']):>10}", "") for tier in tiers]
        if budget is not None:
            total = show_bytes(sum(tier["bytes"] for tier in tiers))
            rows.append((memory, "in all", f"{total:>10}", f"of {show_bytes(budget)} that may be used"))
    return rows


def _speed(record: dict[str, Any]) -> list[tuple[str, ...]]:
    found, sequences = record["prediction"], record["sequences"]
    hit = found["hit_rate"]
    share = f"{found['slots']:,} of {found['experts']:,}"
    together = f", {sequences} sequences" if sequences > 1 else ""
    rows: list[tuple[str, ...]] = [
        ("experts in the fastest memory", f"{found['resident_share']:.0%}", share),
        ("hit rate", f"{hit['value']:.0%}", hit["how"]),
        (f"decoding{together}", f"{found['tokens_per_s']['value']:.3g} tokens/s", _bounds(found["tokens_per_s"])),
        (f"first token after {record['prompt']:,}", _seconds(found["first_token_s"]), _bounds(found["first_token_s"])),
        ("the same, from a cold start", _seconds(found["cold_first_token_s"]), _bounds(found["cold_first_token_s"])),
    ]
    ways: list[tuple[str, ...]] = [(f"decoding, {way}", f"{rate:.3g} tokens/s", "") for way, rate in found["modes"]]
    return rows + (ways if len(ways) > 1 else [])


def _bounds(figure: dict[str, Any]) -> str:
    return f"limited by {figure['limit']}; {figure['how']}"


def _seconds(figure: dict[str, Any]) -> str:
    return f"{figure['value']:.3g} s"


def _machine(machine: dict[str, Any]) -> list[tuple[str, ...]]:
    sizes = {"RAM": machine["ram"]} | ({"VRAM": machine["vram"]} if machine["vram"] else {})
    rates = {"memory": machine["dram"], "disk": machine["disk"]} | (
        {"PCIe": machine["pcie"]} if machine["vram"] else {}
    )
    rows: list[tuple[str, ...]] = [("cores", str(machine["cores"]), "")]
    rows += [(name, show_bytes(size), "") for name, size in sizes.items()]
    return rows + [(name, f"{rate['bytes_per_s'] / 1e9:.3g} GB/s", rate["how"]) for name, rate in rates.items()]
