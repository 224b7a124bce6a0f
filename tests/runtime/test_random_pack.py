"""Packs of random weights: the same bytes however often their making was interrupted, and never on a full disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kernels.formats import Format, dequantise
from runtime.config import EngineConfig, ModelConfig
from runtime.engine import Engine
from runtime.errors import CapacityError, CheckpointError, ConfigError
from runtime.measuring import random_pack
from runtime.measuring.random_pack import RandomModel, free_for_packs, write_random_pack
from runtime.pack import Pack
from runtime.pack_check import check_pack
from runtime.pack_journal import JOURNAL
from runtime.pack_manifest import DENSE, EXPERTS, MANIFEST
from runtime.request import Request, Stage
from runtime.sampling import SamplingParams
from tests.runtime.tiny import make_tiny_checkpoint, tiny_config

W4, W8 = Format.parse("w4a8:64"), Format.parse("w8a8:64")
LARGE = (DENSE, EXPERTS)


def tiny_model(**overrides: Any) -> RandomModel:
    return RandomModel(tiny_config(**overrides), W4, W8)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    write_random_pack(tiny_model(), tmp_path / "whole")
    return tmp_path / "whole"


def test_it_opens_and_every_checksum_is_right(whole: Path) -> None:
    manifest = check_pack(whole)
    assert manifest.formats == {"experts": "w4a8:64", "dense": "w8a8:64"}
    assert manifest.source["kind"] == "random weights"
    assert not (whole / JOURNAL).exists()
    assert sum((whole / name).stat().st_size for name in LARGE) == tiny_model().nbytes


@pytest.mark.parametrize("experts", ["w4a8:64", "w8a8:32"])
@pytest.mark.parametrize("dense", ["w4a8:64:fp16", "w8a8:64"])
def test_weights_have_no_mean_and_every_expert_is_another(tmp_path: Path, experts: str, dense: str) -> None:
    model = RandomModel(tiny_config(), Format.parse(experts), Format.parse(dense))
    write_random_pack(model, tmp_path / "pack")
    pack = Pack.open(tmp_path / "pack")
    head = dequantise(pack.matrix("lm_head"))
    assert abs(float(head.mean())) < 5e-4
    assert float(head.std()) == pytest.approx(0.02, rel=0.1)
    blobs = [bytes(blob.numpy()) for layer in model.geometry.layers for blob in pack.experts(layer).blobs]
    assert len(set(blobs)) == model.geometry.blobs == 24


def test_a_model_of_it_runs_on_text_with_logits_that_are_finite(tmp_path: Path) -> None:
    tokenizer = make_tiny_checkpoint(tmp_path / "tiny")
    write_random_pack(tiny_model(), tmp_path / "pack", tokenizer=tokenizer)
    assert check_pack(tmp_path / "pack").files.keys() >= {"tokenizer.json", "tokenizer_config.json"}
    engine = Engine.load(tmp_path / "pack", EngineConfig(context=256))
    ids = tuple(engine.tokenizer.encode_text("The patient has a fever and a cough since three days."))
    events = list(engine.generate(Request(ids, (Stage(SamplingParams(ignore_eos=True), 8),))))
    assert [event.error for event in events] == [None] * 8
    assert all(0 <= event.token_id < engine.tokenizer.size for event in events)
    engine.close()


def test_tokens_of_a_deep_model_do_not_route_alike(tmp_path: Path) -> None:
    shape = tiny_config(num_hidden_layers=12, num_experts=32, n_group=4, topk_group=2, num_nextn_predict_layers=0)
    write_random_pack(RandomModel(shape, W4, W8), tmp_path / "pack", tokenizer=make_tiny_checkpoint(tmp_path / "tiny"))
    engine = Engine.load(tmp_path / "pack", EngineConfig(context=256))
    seen: list[int] = []
    engine.watch_routing(lambda layer, ids: seen.append(len(ids.unique())) if len(ids) == 64 else None)
    list(engine.generate(Request(tuple(range(64)), (Stage(SamplingParams(), 1),))))
    engine.close()
    assert len(seen) == 11
    # Of 32 experts, 64 tokens that choose 2 each at random go to 31.5; in a model whose tokens grew alike, to few.
    assert min(seen) >= 25


def test_killed_at_any_part_and_gone_on_with_it_has_the_same_bytes(tmp_path: Path, whole: Path) -> None:
    class KilledError(Exception):
        pass

    model, parts = tiny_model(), len(tiny_model().entries) + tiny_model().geometry.blobs
    for stop in (1, parts // 2, parts - 3):
        place, calls = tmp_path / f"killed-{stop}", iter(range(10**9))

        def progress(done: int, total: int, calls: Any = calls, stop: int = stop) -> None:
            assert 0 <= done <= total == model.nbytes
            if next(calls) == stop:
                raise KilledError

        with pytest.raises(KilledError):
            write_random_pack(model, place, progress=progress)
        assert not (place / MANIFEST).exists()
        told: list[int] = []
        write_random_pack(model, place, progress=lambda done, total, told=told: told.append(done))  # type: ignore[misc]
        assert told == sorted(told)
        assert told[-1] == model.nbytes
        assert contents(place) == contents(whole)


SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from runtime.measuring import parts_file
from tests.runtime.test_random_pack import tiny_model, write_random_pack
put = parts_file.PartsFile._put
def slowly(*arguments):
    time.sleep(0.02)
    put(*arguments)
parts_file.PartsFile._put = slowly
write_random_pack(tiny_model(), Path(sys.argv[1]))
"""


def test_a_process_that_is_killed_loses_nothing(tmp_path: Path, whole: Path) -> None:
    place = tmp_path / "killed"
    root = Path(random_pack.__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", SLOW, str(place), str(root)]) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (place / EXPERTS).exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = len((place / JOURNAL).read_text().splitlines()) - 1
    assert 0 < done < len(tiny_model().entries) + tiny_model().geometry.blobs
    write_random_pack(tiny_model(), place)
    assert contents(place) == contents(whole)


def test_parts_that_are_not_as_the_journal_says_are_made_again(tmp_path: Path, whole: Path) -> None:
    place = tmp_path / "torn"
    with pytest.raises(ZeroDivisionError):
        write_random_pack(tiny_model(), place, progress=lambda done, total: 1 // (total - done))
    for name in LARGE:
        with (place / name).open("r+b") as file:
            file.seek((place / name).stat().st_size // 2)
            file.write(b"torn")
    write_random_pack(tiny_model(), place)
    assert contents(place) == contents(whole)


def test_the_beginning_of_another_pack_is_started_anew(tmp_path: Path, whole: Path) -> None:
    place = tmp_path / "other"
    with pytest.raises(ZeroDivisionError):
        write_random_pack(
            tiny_model(num_hidden_layers=4), place, progress=lambda done, total: 1 // max(0, total // 2 - done)
        )
    write_random_pack(tiny_model(), place)
    assert contents(place) == contents(whole)


def test_a_pack_is_never_written_over(whole: Path) -> None:
    before = contents(whole)
    with pytest.raises(CheckpointError, match="a pack already"):
        write_random_pack(tiny_model(), whole)
    assert contents(whole).items() >= before.items()
    assert check_pack(whole)


def test_one_can_share_the_experts_of_another(tmp_path: Path, whole: Path) -> None:
    write_random_pack(RandomModel(tiny_config(), W4, W4), tmp_path / "second", like=whole)
    check_pack(tmp_path / "second")
    assert (tmp_path / "second" / EXPERTS).samefile(whole / EXPERTS)


def test_a_disk_without_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    free = random_pack.KEPT_FREE + model.nbytes - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(CapacityError, match="room") as error:
        write_random_pack(model, tmp_path / "pack")
    assert error.value.shortfall == 1
    assert not (tmp_path / "pack").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free + 1))
    write_random_pack(model, tmp_path / "pack")


def test_as_many_layers_as_fit() -> None:
    model = tiny_model(num_hidden_layers=6)
    assert model.fitting(model.nbytes) == model
    assert model.fitting(model.nbytes - 1) == model.with_layers(5)
    assert model.with_layers(5).config.num_hidden_layers == 5
    assert model.fitting(model.with_layers(2).nbytes) == model.with_layers(2)
    with pytest.raises(CapacityError):
        model.fitting(model.with_layers(2).nbytes - 1)


def test_what_is_there_already_counts_as_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=random_pack.KEPT_FREE + 10))
    assert free_for_packs(tmp_path / "none" / "yet") == 10
    (tmp_path / DENSE).write_bytes(b"12345")
    assert free_for_packs(tmp_path) == 15


@pytest.mark.parametrize("format", ["bf16", "w4a8:64:zeros"])
def test_formats_that_are_not_made(format: str) -> None:
    with pytest.raises(ConfigError, match=format):
        RandomModel(tiny_config(), Format.parse(format), W8)


@pytest.mark.parametrize(("name", "layers", "nbytes"), [("flash", 32, 102_889_697_280), ("mini", 20, 16_255_638_528)])
def test_the_true_shapes_have_the_elements_of_the_published_models(name: str, layers: int, nbytes: int) -> None:
    """Element counts of the repositories of Ling-flash-2.0 and Ling-mini-2.0, in bf16; expert biases beside them."""
    model = random_pack.true_shape(name, W4, W8)
    assert model.config.num_hidden_layers == layers
    geometry = model.geometry
    routed = geometry.blobs * 3 * geometry.hidden * geometry.inner
    others = sum(int(np.prod(entry.shape)) for entry in model.entries if not entry.name.endswith("expert_bias"))
    assert routed + others == nbytes


def test_past_the_page_cache_or_not_the_bytes_are_the_same(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refusing(path: Any, flags: int, *mode: int, **more: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return opened(path, flags, *mode, **more)

    monkeypatch.setattr(os, "open", refusing)
    write_random_pack(tiny_model(), tmp_path / "buffered")
    assert contents(tmp_path / "buffered") == contents(whole)


def test_its_config_is_the_models(whole: Path) -> None:
    assert ModelConfig.from_directory(whole) == ModelConfig.from_dict(tiny_config())
    assert torch.isfinite(Pack.open(whole).tensor("model.word_embeddings.weight").float()).all()
