"""`antangel plan` from outside: whether it fits, what it says where, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from antangel_cli.app import app
from runtime import rates

RUN = CliRunner()
SHAPES = Path(__file__).parents[2] / "runtime" / "measuring" / "shapes"
TOLD = ("--dram", "30GB/s", "--disk", "1.25GB/s", "--cores", "2")


@pytest.fixture
def flash(tmp_path: Path) -> Path:
    directory = tmp_path / "flash"
    directory.mkdir()
    (directory / "config.json").write_text((SHAPES / "flash.json").read_text(encoding="utf-8"))
    return directory


def plan(*arguments: str | Path) -> Result:
    return RUN.invoke(app, ["plan", *map(str, arguments)])


def record(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    result = plan(*arguments, "--json")
    assert result.exit_code == code, result.stderr
    found = json.loads(result.stdout)
    assert found["schema"] == "antangel.plan/1"
    return dict(found)


def test_the_embedded_model_is_planned_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MEMORY_BYTES", 64 << 20)
    found = record()
    assert found["model"].endswith("nano/checkpoint")
    assert found["kind"] == "checkpoint"
    assert (found["status"], found["prediction"]["fits"]) == ("ok", "ram")
    assert found["machine"]["dram"]["how"].startswith("measured here: 64 MiB")
    assert found["machine"]["disk"]["how"].startswith("measured here")
    assert found["prediction"]["tokens_per_s"]["limit"] == "memory"


def test_the_page_says_what_goes_where_and_why(flash: Path) -> None:
    result = plan(flash, "--gpu", "none", "--ram", "24GiB", *TOLD)
    assert (result.exit_code, result.stderr) == (0, "")
    for words in (
        "config.json alone, planned as a pack (experts w4a8:64, dense w8a8:64), 102.89 billion parameters in 52.9 GiB",
        "fits: disk",
        "dense weights",
        "keys and values",
        "of 22.6 GiB that may be used",
        "hit rate",
        "limited by disk",
        "1.25 GB/s  told",
    ):
        assert words in result.stdout


def test_a_machine_with_a_gpu_is_told_in_both_kinds_of_units(flash: Path) -> None:
    decimal = record(flash, "--gpu", "24GB", "--pcie", "4", "--ram", "64GB", *TOLD)
    binary = record(flash, "--gpu", "24GiB", "--pcie", "25GB/s", "--ram", "64GiB", *TOLD)
    assert decimal["prediction"]["fits"] == binary["prediction"]["fits"] == "ram"
    assert (decimal["machine"]["vram"], binary["machine"]["vram"]) == (24 * 10**9, 24 << 30)
    assert (decimal["machine"]["ram"], binary["machine"]["ram"]) == (64 * 10**9, 64 << 30)
    assert decimal["machine"]["pcie"]["bytes_per_s"] == binary["machine"]["pcie"]["bytes_per_s"] == 25e9
    assert decimal["prediction"]["slots"] < binary["prediction"]["slots"]
    page = plan(flash, "--gpu", "80GB", "--ram", "64GB", *TOLD)
    assert "fits: vram" in page.stdout
    assert "predicted by formulas" in page.stdout
    assert "measured none of them" in page.stdout


def test_experts_that_are_kept_once_are_said_so(flash: Path) -> None:
    once, twice = ("--gpu", "24GB", "--ram", "48GB", *TOLD), ("--gpu", "24GB", "--ram", "64GB", *TOLD)
    assert record(flash, *once)["prediction"]["exclusive"] is True
    assert record(flash, *twice)["prediction"]["exclusive"] is False
    assert "fits: ram (every expert is in memory once" in plan(flash, *once).stdout
    assert "fits: ram (every expert is in memory)" in plan(flash, *twice).stdout


def test_a_gpu_over_too_little_ram_is_exit_4_and_the_way_out_works(flash: Path) -> None:
    result = plan(flash, "--gpu", "24GB", "--ram", "32GB", *TOLD)
    assert result.exit_code == 4
    for words in ("does not fit, by", "under a GPU experts are not read from disk", "--gpu none"):
        assert words in result.stderr
    found = record(flash, "--gpu", "24GB", "--ram", "32GB", *TOLD, code=4)
    assert found["error"]["code"] == "does_not_fit"
    assert found["prediction"]["shortfall"] > 0
    assert record(flash, "--gpu", "none", "--ram", "32GB", *TOLD)["prediction"]["fits"] == "disk"


def test_ram_bounds_the_process_here_and_is_all_there_is_on_a_machine_that_is_told(
    flash: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "MEMORY_BYTES", 64 << 20)
    here = record(flash, "--ram", "4GiB")
    there = record(flash, "--ram", "4GiB", *TOLD)
    assert here["prediction"]["budgets"]["RAM"] == 4 << 30
    assert there["prediction"]["budgets"]["RAM"] == int(0.94 * (4 << 30))
    assert there["machine"]["ram"] == 4 << 30 < here["machine"]["ram"]


def test_what_does_not_fit_is_exit_4_with_the_shortfall_and_the_page(flash: Path) -> None:
    result = plan(flash, "--gpu", "none", "--ram", "2GiB", *TOLD)
    assert result.exit_code == 4
    assert "fits: no" in result.stdout
    assert "tokens/s" not in result.stdout
    assert "The model does not fit, by " in result.stderr
    assert "are missing" in result.stderr
    assert "--ram" in result.stderr
    found = record(flash, "--gpu", "none", "--ram", "2GiB", *TOLD, code=4)
    assert found["error"]["code"] == "does_not_fit"
    assert found["prediction"]["shortfall"] > 0
    assert found["status"] == "error"


def test_disk_is_exit_4_where_it_is_forbidden(flash: Path) -> None:
    found = record(flash, "--ram", "24GiB", "--no-disk", *TOLD, code=4)
    assert found["prediction"]["fits"] == "disk"
    assert found["prediction"]["tokens_per_s"]["value"] > 0
    assert "--no-disk" in found["error"]["message"]
    assert record(flash, "--ram", "64GiB", "--no-disk", *TOLD)["prediction"]["fits"] == "ram"


def test_load_and_formats_change_the_plan(flash: Path) -> None:
    usual = record(flash, "--ram", "32GiB", *TOLD)
    small = record(flash, "--ram", "32GiB", "--context", "4096", "--prompt", "100", *TOLD)
    many = record(flash, "--ram", "32GiB", "--batch", "8", *TOLD)
    wide = record(flash, "--ram", "32GiB", "--experts", "w8a8:64", "--dense", "bf16", *TOLD)
    assert small["prediction"]["slots"] > usual["prediction"]["slots"]
    assert small["prediction"]["first_token_s"]["value"] < usual["prediction"]["first_token_s"]["value"]
    assert many["prediction"]["tokens_per_s"]["value"] > usual["prediction"]["tokens_per_s"]["value"]
    assert wide["pack_bytes"] > 1.8 * usual["pack_bytes"]
    assert wide["formats"] == {"experts": "w8a8:64", "dense": "bf16"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpu", "24"), ""),
        (("--gpu", "many"), "--gpu must be none or a size like 24GB"),
        (("--gpu", "50%"), "--gpu must be none or a size like 24GB"),
        (("--dram", "fast"), "--dram must be a rate like 90GB/s"),
        (("--pcie", "sata"), "--pcie must be 3, 4, 5 or a rate like 90GB/s"),
        (("--cores", "0"), "--cores must be a whole number from 1 up"),
        (("--gpu", "none", "--ram", "50%"), "--ram is a share, of a machine that is described"),
        (("--experts", "w5"), "w5"),
        (("--experts", "w4a8:96"), "w4a8:96"),
    ],
)
def test_what_is_told_wrongly_is_exit_2(flash: Path, arguments: tuple[str, ...], words: str) -> None:
    result = plan(flash, *TOLD[:4], *arguments)
    assert result.exit_code == (2 if words else 4), result.stdout
    assert words in result.stderr


def test_the_model_is_named_once(flash: Path, tmp_path: Path) -> None:
    assert record("-m", flash, *TOLD)["model"] == str(flash)
    assert "given twice" in plan(flash, "-m", flash, *TOLD).stderr
    missing = plan(tmp_path / "nothing", *TOLD)
    assert (missing.exit_code, "is no directory" in missing.stderr) == (4, True)
    (tmp_path / "empty").mkdir()
    assert plan(tmp_path / "empty", *TOLD).exit_code == 4
