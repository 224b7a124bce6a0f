"""A widened model is the same function."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from bench.widened import HIDDEN, INNER, write
from runtime.config import EngineConfig
from runtime.engine import Engine
from runtime.pack_manifest import Manifest
from runtime.packing import write_pack
from tests.runtime.tiny import make_tiny_checkpoint

TEXT = [3, 44, 9, 120, 57, 301, 12, 80, 6, 230, 71, 14]


def likelihoods(path: Path) -> torch.Tensor:
    engine = Engine.load(path, EngineConfig(kv_blocks=4))
    try:
        return engine.log_likelihoods(TEXT[:1], TEXT[1:])
    finally:
        engine.close()


def test_a_widened_model_gives_what_it_gave(tmp_path: Path) -> None:
    tiny = make_tiny_checkpoint(tmp_path / "tiny")
    write(tiny, tmp_path / "wide")
    was, now = (json.loads((path / "config.json").read_text()) for path in (tiny, tmp_path / "wide"))
    assert now["hidden_size"] == HIDDEN * was["hidden_size"]
    assert now["moe_intermediate_size"] == INNER * was["moe_intermediate_size"]
    assert torch.allclose(likelihoods(tmp_path / "wide"), likelihoods(tiny), rtol=0, atol=2e-4)


def test_a_widened_pack_is_larger_by_both_factors(tmp_path: Path) -> None:
    tiny = make_tiny_checkpoint(tmp_path / "tiny", num_nextn_predict_layers=0)
    write(tiny, tmp_path / "wide")
    sizes = []
    for name in ("tiny", "wide"):
        write_pack(tmp_path / name, tmp_path / f"{name}.pack")
        sizes.append((tmp_path / f"{name}.pack" / "experts.bin").stat().st_size)
        assert not Manifest.read(tmp_path / f"{name}.pack").is_random
    # What aligns experts is a larger part of small ones.
    assert sizes[1] > 0.75 * HIDDEN * INNER * sizes[0]
