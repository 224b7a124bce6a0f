"""Paging from the command line: it leaves a visible number, changes no answer, and says what does not fit."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from antangel_cli.app import app
from kernels.cpu.build import cache_directory

RUN = CliRunner()
KERNELS = cache_directory()  # taken before a test has another home
QUESTION = "A cough and fever for three days. What should be done?"
ASK = ("ask", "-", "--device", "cpu", "--threads", "1", "--max-tokens", "8", "--temperature", "0", "--context", "1024")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the kernels that are compiled already, in which the first use puts the packed model."""
    home = tmp_path_factory.mktemp("cache")
    (home / "antangel").mkdir()
    KERNELS.mkdir(parents=True, exist_ok=True)
    (home / "antangel" / "kernels").symlink_to(KERNELS)
    return home


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch, _own_home: None) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


def ask(*flags: str) -> Result:
    return RUN.invoke(app, [*ASK, *flags], input=QUESTION)


def measured(result: Result) -> dict[str, Any]:
    """The last line on stderr."""
    assert result.exit_code == 0, result.stderr
    stats: dict[str, Any] = json.loads(result.stderr.splitlines()[-1])
    return stats


def test_paging_leaves_its_numbers() -> None:
    stats = measured(ask("--slots", "10%", "--ram", "6GiB", "--stats"))
    assert stats["bytes_moved"] > 0
    assert 0 < stats["hit_rate"] < 1
    assert stats["ram_budget"] == 6 << 30
    assert stats["ram_peak"] > 0
    assert stats["experts"] == "paged"
    paging = stats["paging"]
    assert paging["slots"] == paging["experts"] // 10 == 6
    assert paging["hits"] + paging["late"] + paging["misses"] == paging["uses"] > 0
    read = paging["demand_bytes"] + paging["lookahead_bytes"] + paging["prewarm_bytes"]
    assert read == stats["bytes_moved"]


def test_without_paging_nothing_is_moved() -> None:
    stats = measured(ask("--stats"))
    assert (stats["experts"], stats["bytes_moved"], stats["hit_rate"], stats["paging"]) == ("mapped", 0, None, None)
    assert stats["ram_budget"] > 0


@pytest.mark.parametrize("slots", ["1", "10%", "50%", "100%"])
def test_the_answer_is_the_same(slots: str) -> None:
    whole, paged = ask(), ask("--slots", slots)
    assert (whole.exit_code, paged.exit_code) == (0, 0)
    assert paged.stdout == whole.stdout != ""


def test_the_policy_and_the_mode_that_were_asked_for_are_those_that_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    for policy, lookahead in (("lru", "off"), ("slru", "on")):
        monkeypatch.setenv("ANTANGEL_POLICY", policy)
        monkeypatch.setenv("ANTANGEL_LOOKAHEAD", lookahead)
        paging = measured(ask("--slots", "25%", "--stats"))["paging"]
        assert (paging["policy"], paging["lookahead"]) == (policy, lookahead)
        assert (paging["guessed"] > 0) == (lookahead == "on")


def test_what_was_chosen_is_said_once() -> None:
    said = [line for line in ask("--slots", "25%").stderr.splitlines() if "experts" in line]
    assert len(said) == 1
    assert said[0].startswith("16 of 64 experts (25%")


def refused(result: Result, code: int = 4) -> str:
    """What is said of a model that cannot run: the reason, then the remedy."""
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    error: str = result.stderr[result.stderr.index("Error: ") :]
    assert len(error.splitlines()) == 2
    return error


def test_a_budget_that_is_too_small_is_refused_with_what_is_missing() -> None:
    error = refused(ask("--ram", "100MB"))
    needed, allowed, missing = (float(number) for number in re.findall(r"([\d.]+) GiB", error))
    [exactly] = (int(number.replace(",", "")) for number in re.findall(r"\(([\d,]+) bytes\)", error))
    assert allowed == round(100_000_000 / 2**30, 2)
    assert missing == round(exactly / 2**30, 2)
    assert needed == pytest.approx(allowed + missing, abs=0.011)
    assert "--ram" in error.splitlines()[-1]


def test_without_the_disk_there_are_no_slots() -> None:
    assert "--slots" in refused(ask("--no-disk", "--slots", "10%"), 2)
    assert ask("--no-disk").exit_code == 0


def test_vram_on_the_cpu_is_refused() -> None:
    error = refused(ask("--vram", "1GiB"), 2)
    assert "VRAM" in error
    assert "--vram" in error


def test_a_policy_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTANGEL_POLICY", "fifo")
    error = refused(ask("--slots", "25%"), 2)
    assert "'fifo'" in error
    assert "lru" in error


def test_a_damaged_expert_is_named_and_nothing_is_answered(cache: Path, tmp_path: Path) -> None:
    assert ask().exit_code == 0
    [packed] = (cache / "antangel" / "packs").iterdir()
    copy = Path(shutil.copytree(packed, tmp_path / "damaged"))
    [experts] = copy.glob("experts*")
    blob = experts.stat().st_size // 64
    content = bytearray(experts.read_bytes())
    for expert in range(64):
        content[expert * blob + 100] ^= 1
    experts.write_bytes(bytes(content))
    result = ask("-m", str(copy), "--slots", "25%", "--json")
    assert result.exit_code == 4
    record = json.loads(result.stdout)
    assert record["status"] == "error"
    message = record["error"]["message"]
    found = re.search(rf"layer (\d), expert (\d+) in {re.escape(str(experts))} at byte ([\d,]+): ", message)
    assert found
    layer, expert, offset = (int(number.replace(",", "")) for number in found.groups())
    assert offset == ((layer - 1) * 16 + expert) * blob
    assert "antangel pack --check" in message
    assert record["error"]["code"] == "model_damaged"
