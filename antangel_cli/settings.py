"""Settings: defaults < system < user < --config < environment < flags; each value knows its origin."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from antangel_cli.errors import UsageError
from antangel_cli.places import home
from antangel_cli.policy import Policy, read_policy, require_known
from antangel_cli.setting_values import IN_FILES, KEYS
from antangel_cli.sizes import Amount

SYSTEM_CONFIG = Path("/etc/antangel/config.toml")
ENVIRONMENT_PREFIX = "ANTANGEL_"


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
    site_rules: str | None = None
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
    audit_required: bool = False
    history: bool = True
    allowed_models: tuple[str, ...] | None = None
    max_age_days: int | None = None
    locked: tuple[str, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict, repr=False)

    def origin(self, key: str) -> str:
        """Where the value of `key` comes from."""
        return self.origins.get(key, "default")


@dataclass(frozen=True)
class Layer:
    """Values from one place, already checked; `policy` is what the system file alone may say."""

    origin: str
    values: Mapping[str, Any]
    policy: Policy = field(default_factory=dict)


def load_settings(
    flags: Mapping[str, Any], config: str | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Read every layer and merge them. Raises UsageError for what is unknown or out of range, PolicyError."""
    places = os.environ if environ is None else environ
    system = _system_layer()
    locked = system.policy.get("locked", ())
    values: dict[str, Any] = dict(system.values) | dict(system.policy)
    origins = dict.fromkeys(values, system.origin)
    for layer in _layers(flags, config, places):
        free = {key: value for key, value in layer.values.items() if key not in locked}
        values |= free
        origins |= dict.fromkeys(free, layer.origin)
    return Settings(**values, origins=origins)


def user_config(environ: Mapping[str, str]) -> Path:
    """The user's configuration file."""
    return home("config", environ) / "config.toml"


def config_files(environ: Mapping[str, str]) -> dict[str, Path]:
    """The files that are read unasked, weakest first."""
    return {"system": SYSTEM_CONFIG, "user": user_config(environ)}


def _system_layer() -> Layer:
    return _file_layer(SYSTEM_CONFIG, may_rule=True) if _exists(SYSTEM_CONFIG) else Layer(str(SYSTEM_CONFIG), {})


def _exists(path: Path) -> bool:
    """Whether a file is there; one that may not be looked at is: a policy is not passed over."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _layers(flags: Mapping[str, Any], config: str | None, environ: Mapping[str, str]) -> Iterator[Layer]:
    """The layers above the system's, weakest first."""
    if _exists(user_config(environ)):
        yield _file_layer(user_config(environ))
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


def _file_layer(path: Path, may_rule: bool = False) -> Layer:
    content = _read_toml(path)
    ruled = content.pop("policy", None)
    if ruled is not None and not may_rule:
        raise UsageError(
            f"{path}: [policy] stands in {SYSTEM_CONFIG} alone.", "Remove it, or ask whoever keeps that file."
        )
    for key in content:
        require_known(str(path), key, IN_FILES)
    policy = read_policy(f"{path} [policy]", ruled) if ruled is not None else {}
    return _layer(str(path), content, policy)


def _read_toml(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist.", "Name an existing file with --config.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Correct the file, or its permissions.") from None


def _layer(origin: str, values: Mapping[str, Any], policy: Policy | None = None) -> Layer:
    checked = {key: _check(origin, key, value) for key, value in values.items()}
    if origin.startswith("/") and str(checked.get("model", "/"))[:1] not in "/~":
        raise UsageError(f"{origin}: model is a relative path.", "Give the model's directory from / on.")
    return Layer(origin, checked, policy or {})


def _check(origin: str, key: str, value: Any) -> Any:
    try:
        return KEYS[key](value)
    except ValueError as error:
        raise UsageError(f"{origin}: {key} must be {error}.", "Correct the value.") from None
