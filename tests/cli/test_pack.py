"""`antangel pack` from outside: what it prints, where, and with which exit code."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from antangel_cli import load
from antangel_cli.app import app
from tests.runtime.tiny import make_tiny_checkpoint

RUN = CliRunner()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_tiny_checkpoint(tmp_path / "model", dtype=torch.bfloat16)


def pack(*arguments: str | Path) -> Result:
    return RUN.invoke(app, ["pack", *map(str, arguments)])


def test_pack_then_check(tmp_path: Path, checkpoint: Path) -> None:
    made = pack(checkpoint, "-o", tmp_path / "pack")
    assert made.exit_code == 0
    start = f"{tmp_path / 'pack'}: experts w4a8:64, dense w8a8:64; 0.00 GB, 24 experts; quantisation error "
    assert re.fullmatch(re.escape(start) + r"experts \d\.\d%, dense 0\.\d%; every byte verified\n", made.stdout)
    assert made.stderr == ""
    checked = pack("--check", tmp_path / "pack")
    assert (checked.exit_code, checked.stdout) == (0, made.stdout)
    again = pack(checkpoint, "-o", tmp_path / "pack")
    assert (again.exit_code, again.stdout) == (0, made.stdout)
    assert "is there already" in again.stderr


def test_formats_and_json(tmp_path: Path, checkpoint: Path) -> None:
    made = pack(checkpoint, "-o", tmp_path / "pack", "--experts", "w8a8:32", "--dense", "bf16", "--json")
    record = json.loads(made.stdout)
    assert made.exit_code == 0
    assert record["schema"] == "antangel.pack/1"
    assert record["status"] == "ok"
    assert record["directory"] == str(tmp_path / "pack")
    assert record["formats"] == {"experts": "w8a8:32", "dense": "bf16"}
    assert record["blobs"] == 24
    assert record["bytes"] == sum(
        file.stat().st_size for file in (tmp_path / "pack").iterdir() if file.name != "manifest.json"
    )
    assert set(record["errors"]) == {"all of experts.bin", *(f"experts of layer {layer}" for layer in (1, 2, 3))}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["MODEL"],
        ["-o", "DIR"],
        ["MODEL", "--check", "DIR"],
        ["--check", "DIR", "-o", "DIR"],
        ["--check", "DIR", "--dense", "bf16"],
        ["MODEL", "-o", "DIR", "--experts", "w3a8"],
        ["MODEL", "-o", "DIR", "--dense", "w4a8:64:zeros"],
    ],
)
def test_wrong_flags_are_usage(tmp_path: Path, checkpoint: Path, arguments: list[str]) -> None:
    places = {"MODEL": str(checkpoint), "DIR": str(tmp_path / "pack")}
    result = pack(*(places.get(word, word) for word in arguments))
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert not (tmp_path / "pack").exists()


def test_a_place_that_cannot_be_made_is_usage(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "file").write_text("")
    result = pack(checkpoint, "-o", tmp_path / "file" / "pack")
    assert result.exit_code == 2
    assert str(tmp_path / "file") in result.stderr


def test_a_damaged_pack_is_named_with_exit_4(tmp_path: Path, checkpoint: Path) -> None:
    pack(checkpoint, "-o", tmp_path / "pack")
    with (tmp_path / "pack" / "experts.bin").open("r+b") as file:
        file.write(b"\xaa\x55")
    result = pack("--check", tmp_path / "pack", "--json")
    assert result.exit_code == 4
    assert "experts.bin, layer 1, expert 0: the bytes are not those written" in result.stderr
    error = json.loads(result.stdout)["error"]
    assert (error["code"], error["stage"]) == ("model_damaged", "pack")


@pytest.mark.parametrize("name", ["nothing", "model"])
def test_what_is_no_pack_is_exit_4(tmp_path: Path, checkpoint: Path, name: str) -> None:
    result = pack("--check", tmp_path / name)
    assert result.exit_code == 4
    assert "no finished pack" in result.stderr


def test_what_is_no_checkpoint_is_exit_4(tmp_path: Path) -> None:
    result = pack(tmp_path / "nothing", "-o", tmp_path / "pack")
    assert result.exit_code == 4
    assert "config.json does not exist" in result.stderr
    assert not (tmp_path / "pack").exists()


def test_an_interruption_says_how_to_go_on(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, packing: Callable[[int, int], None], **others: Any) -> load.MadePack:
        packing(1, 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(load, "write_pack", interrupted)
    result = pack(checkpoint, "-o", tmp_path / "pack")
    assert result.exit_code == 130
    assert "goes on from here" in result.stderr


SLOW = """
import sys, time
from runtime import packing
do = packing._do
def slowly(*task):
    time.sleep(0.05)
    return do(*task)
packing._do = slowly
from antangel_cli.app import main
sys.argv = ["antangel", "pack", *sys.argv[1:]]
main()
"""


def test_control_c_ends_at_once_and_the_rest_is_packed_later(tmp_path: Path, checkpoint: Path) -> None:
    arguments = [sys.executable, "-c", SLOW, str(checkpoint), "-o", str(tmp_path / "pack")]
    journal = tmp_path / "pack" / "packing.journal"
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (journal.is_file() and len(journal.read_text().splitlines()) > 3) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err == "Interrupted. The same command goes on from here.\n"
    assert not (tmp_path / "pack" / "manifest.json").exists()
    assert pack(checkpoint, "-o", tmp_path / "pack").exit_code == 0
    assert not journal.exists()


class Screen(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_bar_counts_bytes_with_a_rate_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    from antangel_cli.terminal import Terminal

    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(os, "environ", {**os.environ, "TERM": "xterm", "COLUMNS": "120"})
    with Terminal().meter("Packing", "bytes") as advance:
        for done in (0, 1_000_000, 2_000_000):
            advance(done, 4_000_000)
            time.sleep(0.15)
    shown = screen.getvalue()
    assert "Packing" in shown
    assert "2.0/4.0 MB" in shown
    assert "MB/s" in shown
    assert "0:00:0" in shown
