"""What is wrong ends in one clear message and the right exit code, through the whole program."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.tiny import make_tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
CASE = ROOT / "examples" / "chest-pain.json"


def antangel(home: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "XDG_STATE_HOME": str(home)}
    command = [sys.executable, "-m", "antangel_cli", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, cwd=ROOT, env=environment, check=False)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    place = tmp_path / "model"
    make_tiny_checkpoint(place)
    return place


def _expect(done: subprocess.CompletedProcess[bytes], code: int, *words: str) -> None:
    message = done.stderr.decode()
    assert done.returncode == code, message
    assert "Traceback" not in message
    assert not done.stdout
    for word in words:
        assert word in message


def _edit(path: Path, **changes: object) -> None:
    config = json.loads(path.read_text())
    config |= changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def test_a_truncated_shard(checkpoint: Path, tmp_path: Path) -> None:
    shard = next(checkpoint.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1000])
    _expect(antangel(tmp_path, "diagnose", str(CASE), "-m", str(checkpoint)), 4, shard.name)


def test_a_shape_that_disagrees_with_the_config(checkpoint: Path, tmp_path: Path) -> None:
    _edit(checkpoint / "config.json", intermediate_size=384)
    _expect(
        antangel(tmp_path, "diagnose", str(CASE), "-m", str(checkpoint)),
        4,
        "model.layers.0.mlp.gate_proj.weight",
        "384",
    )


def test_a_config_without_partial_rotary_factor(checkpoint: Path, tmp_path: Path) -> None:
    _edit(checkpoint / "config.json", partial_rotary_factor=None)
    _expect(antangel(tmp_path, "diagnose", str(CASE), "-m", str(checkpoint)), 4, "partial_rotary_factor")


def test_a_file_that_is_no_case(tmp_path: Path) -> None:
    _expect(antangel(tmp_path, "diagnose", str(ROOT / "examples" / "bad" / "not-a-case.json")), 3)


def test_a_case_of_two_megabytes(tmp_path: Path) -> None:
    big = tmp_path / "big.json"
    case = json.loads(CASE.read_text(encoding="utf-8"))
    big.write_text(json.dumps(case | {"narrative": "pain. " * 350_000}))
    assert big.stat().st_size > 2_000_000
    _expect(antangel(tmp_path, "diagnose", str(big)), 3, "1,048,576")


def test_an_empty_stdin(tmp_path: Path) -> None:
    _expect(antangel(tmp_path, "diagnose", "-"), 3, "empty")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    _expect(antangel(tmp_path, "diagnose", str(tmp_path / "none.json")), 2, "none.json")
