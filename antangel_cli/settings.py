"""Settings: defaults < system < user < --config < environment < flags; each value knows its origin."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from antangel_cli.errors import UsageError
from antangel_cli.sizes import Amount, parse_share, parse_size

SYSTEM_CONFIG = Path("/etc/antangel/config.toml")
ENVIRONMENT_PREFIX = "ANTANGEL_"
POLICY_KEYS = ("demo_model",)

Parse = Callable[[Any], Any]
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Settings:
    """Every value a command runs with. `origins` names where each came from."""

    model: str | None = None
    seed: int | None = None
    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 20
    max_tokens: int = 2048
    timeout: float | None = None
    device: str = "auto"
    threads: int | None = None
    context: int | None = None
    ram: Amount | None = None
    vram: Amount | None = None
    kv: Amount | None = None
    slots: Amount | None = None
    no_disk: bool = False
    policy: str | None = None
    lookahead: str = "auto"
    cpu_share: float | None = None
    wait: bool = False
    trace: str | None = None
    max_dx: int = 5
    reasoning: Literal["show", "hide", "off"] = "hide"
    lang: str | None = None
    concurrency: int | None = None
    plain: bool = False
    no_color: bool = False
    progress: str = "auto"
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    json: bool = False
    no_input: bool = False
    stats: bool = False
    demo_model: bool = True
    origins: Mapping[str, str] = field(default_factory=dict, repr=False)

    def origin(self, key: str) -> str:
        """Where the value of `key` comes from."""
        return self.origins.get(key, "default")


@dataclass(frozen=True)
class Layer:
    """Values from one place, already checked."""

    origin: str
    values: Mapping[str, Any]
    policy: Mapping[str, bool] = field(default_factory=dict)


def load_settings(
    flags: Mapping[str, Any], config: str | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Read every layer and merge them. Raises UsageError for what is unknown or out of range."""
    found = list(_layers(flags, config, os.environ if environ is None else environ))
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in found:
        values |= layer.values
        origins |= dict.fromkeys(layer.values, layer.origin)
    # A policy only tightens: one place that forbids is enough, and no later place allows it again.
    forbidden = [layer.origin for layer in found if layer.policy.get("demo_model") is False]
    if forbidden:
        values["demo_model"] = False
        origins["demo_model"] = forbidden[0]
    return Settings(**values, origins=origins)


def user_config(environ: Mapping[str, str]) -> Path:
    """The user's configuration file.

    A relative XDG_CONFIG_HOME is ignored: it would mean the working directory.
    """
    home = environ.get("XDG_CONFIG_HOME", "")
    base = Path(home) if home.startswith("/") else Path("~/.config").expanduser()
    return base / "antangel" / "config.toml"


def _layers(flags: Mapping[str, Any], config: str | None, environ: Mapping[str, str]) -> Iterator[Layer]:
    yield from (_file_layer(path) for path in (SYSTEM_CONFIG, user_config(environ)) if path.is_file())
    if config is not None:
        yield _file_layer(Path(config))
    yield from _environment_layers(environ)
    yield from (_layer(flag_name(key), {key: value}) for key, value in flags.items())


def flag_name(key: str) -> str:
    """The flag of a key: `top_p` is set by `--top-p`."""
    return f"--{key.replace('_', '-')}"


def _environment_layers(environ: Mapping[str, str]) -> Iterator[Layer]:
    for name, value in sorted(environ.items()):
        key = name.removeprefix(ENVIRONMENT_PREFIX).lower()
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        if key in IN_FILES:
            yield _layer(name, {key: value})
        elif near := difflib.get_close_matches(key, IN_FILES, 1, 0.75):
            raise UsageError(
                f"The environment variable {name} is no setting.",
                f"Nearest: {ENVIRONMENT_PREFIX}{near[0].upper()}.",
            )


def _file_layer(path: Path) -> Layer:
    content = _read_toml(path)
    policy = content.pop("policy", {})
    if not isinstance(policy, dict):
        raise UsageError(f"{path}: policy is no table.", "Write [policy] on a line of its own.")
    for key in content:
        _require_known(str(path), key, IN_FILES)
    for key, value in policy.items():
        _require_known(f"{path} [policy]", key, POLICY_KEYS)
        if not isinstance(value, bool):
            raise UsageError(f"{path} [policy]: {key} must be true or false.", "Correct the line.")
    return _layer(str(path), content, policy)


def _read_toml(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist.", "Name an existing file with --config.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Correct the file, or its permissions.") from None


def _require_known(place: str, key: str, known: tuple[str, ...]) -> None:
    if key in known:
        return
    near = difflib.get_close_matches(key, known, 1, 0.0)
    raise UsageError(f"{place}: {key} is no setting.", f"Nearest: {near[0]}." if near else "Remove it.")


def _layer(origin: str, values: Mapping[str, Any], policy: Mapping[str, bool] | None = None) -> Layer:
    checked = {key: _check(origin, key, value) for key, value in values.items()}
    if origin.startswith("/") and str(checked.get("model", "/"))[:1] not in "/~":
        raise UsageError(f"{origin}: model is a relative path.", "Give the model's directory from / on.")
    return Layer(origin, checked, policy or {})


def _check(origin: str, key: str, value: Any) -> Any:
    try:
        return KEYS[key](value)
    except ValueError as error:
        raise UsageError(f"{origin}: {key} must be {error}.", "Correct the value.") from None


def _number(least: float, most: float = float("inf"), above: bool = False) -> Parse:
    wanted = f"a number {'above' if above else 'from'} {least:g}" + (f" to {most:g}" if most < 1e9 else " up")

    def parse(raw: Any) -> float:
        value = _convert(float, raw, wanted)
        if not least <= value <= most or (above and value == least):
            raise ValueError(wanted)
        return value

    return parse


def _whole(least: int, most: int = 2**63 - 1) -> Parse:
    wanted = f"a whole number from {least}" + (f" to {most}" if most < 2**32 else " up")

    def parse(raw: Any) -> int:
        value = _convert(int, raw, wanted)
        if not least <= value <= most:
            raise ValueError(wanted)
        return value

    return parse


def _convert(kind: type[Number], raw: Any, wanted: str) -> Number:
    if isinstance(raw, bool) or (kind is int and isinstance(raw, float)):
        raise ValueError(wanted)
    try:
        return kind(raw)
    except (TypeError, ValueError):
        raise ValueError(wanted) from None


def _switch(raw: Any) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    value = raw if isinstance(raw, bool) else words.get(str(raw).lower())
    if value is None:
        raise ValueError("true or false")
    return value


def _choice(*words: str) -> Parse:
    def parse(raw: Any) -> str:
        if raw not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return str(raw)

    return parse


def _text(raw: Any) -> str:
    if not isinstance(raw, str) or not raw:
        raise ValueError("a text that is not empty")
    return raw


def _device(raw: Any) -> str:
    word = str(raw)
    if word not in ("auto", "cpu", "cuda") and not (word.startswith("cuda:") and word[5:].isdigit()):
        raise ValueError("auto, cpu or cuda:N")
    return word


def _size(raw: Any) -> Amount:
    try:
        return parse_size(str(raw))
    except ValueError:
        raise ValueError("a size like 8GiB, 8GB or 50%") from None


def _slots(raw: Any) -> Amount:
    try:
        share = parse_share(str(raw))
    except ValueError:
        raise ValueError("a number of experts, or a share of all like 10%") from None
    return share if share is not None else int(_whole(1)(raw))


def _cpu_share(raw: Any) -> float | None:
    return None if raw == "auto" else _number(0, 1)(raw)


def _concurrency(raw: Any) -> int | None:
    return None if raw == "auto" else int(_whole(1, 256)(raw))


KEYS: dict[str, Parse] = {
    "model": _text,
    "seed": _whole(0),
    "temperature": _number(0, 5),
    "top_p": _number(0, 1, above=True),
    "top_k": _whole(0),
    "max_tokens": _whole(1),
    "timeout": _number(0, above=True),
    "device": _device,
    "threads": _whole(1, 4096),
    "context": _whole(1),
    "ram": _size,
    "vram": _size,
    "kv": _size,
    "slots": _slots,
    "no_disk": _switch,
    "policy": _text,
    "lookahead": _choice("auto", "on", "off"),
    "cpu_share": _cpu_share,
    "wait": _switch,
    "trace": _text,
    "max_dx": _whole(3, 10),
    "reasoning": _choice("show", "hide", "off"),
    "lang": _choice("en", "zh"),
    "concurrency": _concurrency,
    "plain": _switch,
    "no_color": _switch,
    "progress": _choice("auto", "always", "never"),
    "quiet": _switch,
    "verbose": _switch,
    "debug": _switch,
    "json": _switch,
    "no_input": _switch,
    "stats": _switch,
}
"""Every key and how its value is checked."""

ONE_RUN_ONLY = ("debug", "json", "no_input", "stats", "trace")
IN_FILES = tuple(key for key in KEYS if key not in ONE_RUN_ONLY)
"""The keys that files and the environment may set."""
