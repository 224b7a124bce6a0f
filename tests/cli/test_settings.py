"""Settings: layers, origins, refusals."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from antangel_cli import settings as module
from antangel_cli.app import app
from antangel_cli.errors import PolicyError, UsageError
from antangel_cli.policy import POLICY
from antangel_cli.setting_values import KEYS
from antangel_cli.settings import Settings, load_settings, user_config
from antangel_cli.source import EMBEDDED, find_model, manifest_hash


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment whose configuration files are below tmp_path."""
    monkeypatch.setattr(module, "SYSTEM_CONFIG", tmp_path / "system.toml")
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_every_field_has_a_key() -> None:
    assert {field.name for field in fields(Settings)} == {*KEYS, *POLICY, "origins"}


def test_each_layer_is_stronger_than_the_one_before(home: dict[str, str], tmp_path: Path) -> None:
    keys = ("top_k", "seed", "threads", "context", "max_tokens")
    write(tmp_path / "system.toml", "\n".join(f"{key} = 1" for key in keys))
    write(user_config(home), "\n".join(f"{key} = 2" for key in keys[1:]))
    mine = write(tmp_path / "mine.toml", "\n".join(f"{key} = 3" for key in keys[2:]))
    home |= {"ANTANGEL_CONTEXT": "4", "ANTANGEL_MAX_TOKENS": "4"}
    found = load_settings({"max_tokens": 5}, str(mine), home)
    assert [getattr(found, key) for key in keys] == [1, 2, 3, 4, 5]
    assert [found.origin(key) for key in keys] == [
        str(tmp_path / "system.toml"),
        str(user_config(home)),
        str(mine),
        "ANTANGEL_CONTEXT",
        "--max-tokens",
    ]
    assert found.origin("temperature") == "default"


def test_zero_is_a_value() -> None:
    found = load_settings({"temperature": 0.0, "seed": 0}, None, {})
    assert (found.temperature, found.seed, found.origin("seed")) == (0.0, 0, "--seed")


def test_an_unknown_key_names_its_place_and_the_nearest(home: dict[str, str]) -> None:
    write(user_config(home), "temprature = 1")
    with pytest.raises(UsageError) as caught:
        load_settings({}, None, home)
    assert str(user_config(home)) in caught.value.message
    assert caught.value.remedy == "Nearest: temperature."


def test_an_environment_variable_with_a_slip_is_refused(home: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="ANTANGEL_TEMPRATURE"):
        load_settings({}, None, home | {"ANTANGEL_TEMPRATURE": "1"})
    assert load_settings({}, None, home | {"ANTANGEL_SOMETHING_ELSE": "1"}).temperature == 0.6


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", -1), ("temperature", "warm"), ("top_p", 0), ("top_k", 1.5), ("seed", True),
        ("max_dx", 2), ("max_dx", 11), ("reasoning", "loud"), ("device", "tpu"), ("model", ""),
        ("concurrency", 0), ("plain", "perhaps"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(UsageError, match=key):
        load_settings({key: value}, None, {})


@pytest.mark.parametrize("key", ["json", "debug", "stats", "no_input"])
def test_what_holds_for_one_run_is_in_no_file(home: dict[str, str], key: str) -> None:
    write(user_config(home), f"{key} = true")
    with pytest.raises(UsageError, match=key):
        load_settings({}, None, home)


def test_a_policy_holds_from_the_system_file_alone(home: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path / "system.toml", "[policy]\ndemo_model = false\naudit_required = true\nmax_age_days = 30")
    found = load_settings({}, None, home)
    assert (found.demo_model, found.audit_required, found.max_age_days) == (False, True, 30)
    assert found.origin("demo_model") == str(tmp_path / "system.toml")
    for place, config in ((user_config(home), None), (tmp_path / "mine.toml", str(tmp_path / "mine.toml"))):
        write(place, "[policy]\ndemo_model = true")
        with pytest.raises(UsageError, match="alone"):
            load_settings({}, config, home)
        place.unlink()


@pytest.mark.parametrize(
    "line",
    [
        "demo_model = 1", "max_age_days = 0", "max_age_days = true", 'allowed_models = "one"', 'locked = ["colour"]',
        "locked = [1]",
    ],
)  # fmt: skip
def test_a_wrong_policy_is_refused_by_name(home: dict[str, str], tmp_path: Path, line: str) -> None:
    write(tmp_path / "system.toml", f"[policy]\n{line}")
    with pytest.raises(UsageError, match=line.split()[0]):
        load_settings({}, None, home)


def test_a_locked_setting_keeps_the_system_s_value(home: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path / "system.toml", 'temperature = 0\n[policy]\nlocked = ["temperature", "max_dx"]')
    write(user_config(home), "temperature = 2\ntop_k = 3")
    found = load_settings({}, None, home | {"ANTANGEL_MAX_DX": "9"})
    assert (found.temperature, found.max_dx, found.top_k) == (0, 5, 3)
    assert found.origin("temperature") == str(tmp_path / "system.toml")


@pytest.mark.parametrize(
    ("locked", "flags"), [("temperature", ["--temperature", "1"]), ("doses", ["--doses"]), ("json", ["--json"])]
)
def test_a_locked_setting_given_as_a_flag_is_exit_7(
    home: dict[str, str], tmp_path: Path, locked: str, flags: list[str]
) -> None:
    write(tmp_path / "system.toml", f'[policy]\nlocked = ["{locked}"]' if locked != "json" else "")
    result = CliRunner().invoke(app, ["diagnose", str(tmp_path / "none.json"), *flags])
    assert result.exit_code == (2 if locked == "json" else 7)
    assert (f"--{locked} is locked by {tmp_path}" in result.stderr) == (locked != "json")


def test_a_policy_that_may_not_be_read_is_not_passed_over(
    home: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed(type(tmp_path)):  # type: ignore[misc]
        def stat(self, **_: object) -> object:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "SYSTEM_CONFIG", Closed(tmp_path))
    with pytest.raises(UsageError, match="cannot be read"):
        load_settings({}, None, home)


def test_config_show_says_what_is_locked(home: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path / "system.toml", 'top_k = 9\n[policy]\nlocked = ["top_k"]\nallowed_models = ["nano"]')
    shown = CliRunner().invoke(app, ["config", "show"]).stdout
    assert f"{tmp_path}/system.toml, locked" in shown
    assert "policy.allowed_models" in shown


@pytest.mark.parametrize(
    ("allowed", "fits"),
    [(["nano"], True), ([manifest_hash(EMBEDDED)], True), (["other"], False), (["0" * 64], False), ([], False)],
)
def test_only_allowed_models_answer(allowed: list[str], fits: bool) -> None:
    settings = Settings(allowed_models=tuple(allowed))
    if fits:
        assert find_model(settings).name == "nano"
        return
    with pytest.raises(PolicyError, match="none of the models"):
        find_model(settings)


def test_a_misspelt_policy_is_refused(home: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path / "system.toml", "[policy]\ndemo_modell = false")
    with pytest.raises(UsageError, match="demo_modell"):
        load_settings({}, None, home)


def test_nothing_is_read_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: dict[str, str]
) -> None:
    write(tmp_path / "work" / "config.toml", "top_k = 7")
    write(tmp_path / "work" / "antangel" / "config.toml", "top_k = 7")
    monkeypatch.chdir(tmp_path / "work")
    assert load_settings({}, None, home | {"XDG_CONFIG_HOME": "."}).top_k == 20


def test_a_relative_model_in_a_file_is_refused(home: dict[str, str]) -> None:
    write(user_config(home), 'model = "models/x"')
    with pytest.raises(UsageError, match="relative"):
        load_settings({}, None, home)
    assert load_settings({"model": "models/x"}, None, {}).model == "models/x"


def test_a_missing_or_damaged_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_settings({}, str(tmp_path / "none.toml"), {})
    with pytest.raises(UsageError, match="cannot be read"):
        load_settings({}, str(write(tmp_path / "bad.toml", "top_k = ")), {})
