"""`antangel doctor`: machine, GPUs, the kernels they get and why not others, permissions, the model that answers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from antangel_cli import __version__, load, self_test, source
from antangel_cli.errors import BusyError, CommandError, ModelError, UsageError
from antangel_cli.permissions import examine_places
from antangel_cli.settings import Settings
from antangel_cli.sizes import show_bytes
from antangel_cli.terminal import Terminal

Found = dict[str, Any]


def doctor(settings: Settings, directory: str | None = None) -> int:
    """Print the examination. Exit 4 where the model asked for is not usable; what else is missing, the page says."""
    settings = _with_model(settings, directory)
    terminal = Terminal.of(settings)
    found = _examination(settings, terminal)
    if settings.json:
        terminal.answer(json.dumps(found, ensure_ascii=False))
    else:
        terminal.answer("\n\n".join(_page(terminal, found)))
    return ModelError.exit_code if found["model"].get("problem") and settings.model else 0


def _with_model(settings: Settings, directory: str | None) -> Settings:
    if directory is None:
        return settings
    if settings.origin("model") == "--model":
        raise UsageError("The model is named twice.", "Leave -m out.")
    return replace(settings, model=directory)


def _examination(settings: Settings, terminal: Terminal) -> Found:
    machine = load.examine(terminal.remark)
    model, remedy = source.described(settings)
    path = Path(model["path"]) if model["name"] and settings.model else None
    kernels = Path(machine["machine"]["kernel_cache"])
    if model["name"] is None:
        model |= {"problem": f"{model['problem']} {remedy}".strip()}
    elif path is not None:
        model |= _examined(settings, path, terminal)
    else:
        model |= {"rates": {"memory": load.memory_rate(settings.threads)}}
    return {
        "version": __version__,
        **machine,
        "rates": model.pop("rates", {}),
        "permissions": [asdict(place) for place in examine_places(os.environ, kernels, path)],
        "model": model,
    }


def _examined(settings: Settings, path: Path, terminal: Terminal) -> Found:
    """What is in a model, where it would go, and whether it speaks; `problem` where it is not usable."""
    try:
        found = load.examine_model(settings, path)
        return found | _tested(settings, terminal)
    except CommandError as error:
        return {"problem": f"{error.message} {error.remedy}"}


def _tested(settings: Settings, terminal: Terminal) -> Found:
    """The self-test, run anew, or why it was not."""
    try:
        with terminal.meter("Loading the model", "bytes") as advance:
            model = load.open_model(settings, advance, announce=terminal.remark)
    except BusyError as error:
        return {"self_test": f"not run: {error.message}"}
    except ModelError as error:
        damaged = error.code == "model_damaged"
        return {"self_test": f"not run: {error.message} {error.remedy}"} | (
            {"problem": error.message} if damaged else {}
        )
    try:
        if reason := load.untestable(model):
            return {"self_test": reason}
        report = self_test.examine(model)
    except CommandError as error:
        return {"self_test": f"not run: {error.message}"}
    finally:
        model.close()
    facts = {"self_test": report.line, "sound": report.sound, "report": asdict(report)}
    return facts if report.sound else facts | {"problem": self_test.failure(report).message}


def _page(terminal: Terminal, found: Found) -> Iterator[str]:
    yield f"antangel {found['version']}"
    machine = [(key.replace("_", " "), str(value)) for key, value in found["machine"].items()]
    rates = [
        (f"{name} GB/s", f"{rate['bytes_per_s'] / 1e9:.3g}, {rate['how']}") for name, rate in found["rates"].items()
    ]
    yield terminal.rows("Machine", [*machine, *rates])
    yield terminal.rows("Kernels in use", list(found["kernels"].items()))
    if found["refused"]:
        yield terminal.rows("Kernels refused", list(found["refused"].items()))
    yield from (_gpu_page(terminal, gpu) for gpu in found["gpus"])
    places = found["permissions"]
    yield terminal.rows("Directories", [(place["use"], place["state"], place["path"]) for place in places])
    if warned := [(place["use"], place["warning"]) for place in places if place["warning"]]:
        yield terminal.rows("Warnings", warned)
    yield from _model_page(terminal, found["model"])


def _gpu_page(terminal: Terminal, gpu: Found) -> str:
    rows = [("name", gpu["name"])]
    if "problem" in gpu:
        rows.append(("problem", gpu["problem"]))
    else:
        memory = f"{show_bytes(gpu['memory_free'])} free of {show_bytes(gpu['memory'])}"
        rows += [("compute capability", gpu["compute_capability"]), ("memory", memory)]
    rows += [(name, gpu[name]) for name in ("driver", "cuda", "triton", "examination")]
    rows += [("kernels", f"{name}: {ops}") for name, ops in _by_value(gpu["kernels"]).items()]
    rows += [("refused", f"{names}: {reason}") for reason, names in _by_value(gpu["refused"]).items()]
    return terminal.rows(f"GPU {gpu['device']}", rows)


def _by_value(table: dict[str, str]) -> dict[str, str]:
    """What has the same value, together: its names by the value."""
    values = dict.fromkeys(table.values())
    return {value: ", ".join(name for name in table if table[name] == value) for value in values}


def _model_page(terminal: Terminal, model: Found) -> Iterator[str]:
    if not model["name"]:
        yield f"Model: {model['problem']}"
        return
    yield f"Model: {model['name']}, {model['path']}"
    rows = [(key.replace("_", " "), str(model[key])) for key in ("kind", "tensors", "fingerprint") if key in model]
    if "memory" in model:
        rows.append(("memory", _memory(model["memory"])))
    if "self_test" in model:
        rows.append(("self-test", model["self_test"]))
    if rows:
        yield terminal.rows("Examined", rows)
    if "problem" in model:
        yield f"Problem: {model['problem']}"


def _memory(plan: Found) -> str:
    if plan["problem"]:
        return f"{plan['problem']} {plan['remedy']}"
    share = f"{plan['slots']:,} of {plan['experts']:,} experts in memory"
    return f"fits: {plan['fits']}; {share}; {show_bytes(plan['needs'])} of {show_bytes(plan['may_take'])}"
