"""Packs: the same weights as the checkpoint's, whatever interrupts their making, and nothing that loads if it fails."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kernels.formats import Format, Matrix, dequantise, quantise, stack_rows
from runtime.checkpoint import Checkpoint
from runtime.config import ModelConfig
from runtime.errors import CapacityError, CheckpointError
from runtime.inventory import dense_matrices, expert_layers, plain_tensors
from runtime.pack import Pack, is_pack
from runtime.pack_check import check_pack, file_parts
from runtime.pack_journal import JOURNAL
from runtime.pack_layout import PAGE, ExpertGeometry, matrix_gaps, row_ranges
from runtime.pack_manifest import DENSE, EXPERTS, MANIFEST, Manifest
from runtime.packing import FormatChoiceError, Telling, write_pack
from runtime.weights import FloatWeights, Weights, open_weights
from tests.runtime.tiny import make_tiny_checkpoint

BF16 = torch.bfloat16


def checkpoint(path: Path, **overrides: Any) -> Path:
    return make_tiny_checkpoint(path / "model", dtype=overrides.pop("dtype", BF16), **overrides)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def opened(path: Path) -> Weights:
    return open_weights(path, ModelConfig.from_directory(path))


def experts(weights: Weights) -> list[Matrix]:
    """All matrices of all experts."""
    pools = [weights.experts(layer) for layer in expert_layers(weights.config)]
    both = [pool.expert(i) for pool in pools for i in range(weights.config.num_experts)]
    return [matrix for expert in both for matrix in (expert.gate_up, expert.down)]


def same(left: Tensor, right: Tensor) -> bool:
    return left.dtype == right.dtype and torch.equal(left, right)


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_a_pack_of_floats_is_the_checkpoint(tmp_path: Path, dtype: str) -> None:
    types = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    source = checkpoint(tmp_path, dtype=types[dtype])
    write_pack(source, tmp_path / "pack", experts=dtype, dense=dtype)
    floats, pack = opened(source), opened(tmp_path / "pack")
    assert isinstance(floats, FloatWeights)
    assert isinstance(pack, Pack)
    assert floats.config == pack.config
    for spec in plain_tensors(floats.config):
        assert same(floats.tensor(spec.name), pack.tensor(spec.name)), spec.name
    for matrix in dense_matrices(floats.config):
        assert same(floats.matrix(matrix.name).floats, pack.matrix(matrix.name).floats), matrix.name
    pairs = list(zip(experts(floats), experts(pack), strict=True))
    assert len(pairs) == 2 * 3 * 8
    assert all(same(left.floats, right.floats) for left, right in pairs)


def test_the_weights_of_a_checkpoint_are_its_own(tmp_path: Path) -> None:
    source = checkpoint(tmp_path)
    stored, weights = load_file(source / "model.safetensors"), opened(source)
    expert = weights.experts(2).expert(7)
    assert same(expert.gate_up.floats[64:], stored["model.layers.2.mlp.experts.7.up_proj.weight"])
    assert same(expert.down.floats, stored["model.layers.2.mlp.experts.7.down_proj.weight"])
    assert same(weights.matrix("lm_head").floats, stored["lm_head.weight"])
    assert same(weights.tensor("model.norm.weight"), stored["model.norm.weight"])
    assert weights.nbytes == sum(tensor.nbytes for tensor in stored.values())


def test_experts_of_two_number_types_are_refused(tmp_path: Path) -> None:
    source = checkpoint(tmp_path)
    config = ModelConfig.from_directory(source)

    class Mixed(Checkpoint):
        def read(self, name: str) -> Tensor:
            tensor = super().read(name)
            return tensor.float() if ".experts.4.down" in name else tensor

    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.experts\.4\.down is fp32 where expert 0 .* bf16"):
        FloatWeights(Mixed.open(source, config)).experts(1)


@pytest.mark.parametrize(("experts_format", "dense_format"), [("w4a8:64", "w8a8:64"), ("w8a8:32:p2", "w4a8:32:fp16")])
def test_matrices_are_quantised_whole(tmp_path: Path, experts_format: str, dense_format: str) -> None:
    source = checkpoint(tmp_path)
    manifest = write_pack(source, tmp_path / "pack", experts=experts_format, dense=dense_format)
    floats, pack = opened(source), opened(tmp_path / "pack")
    for spec in dense_matrices(pack.config):
        expected, _ = quantise(floats.matrix(spec.name).floats, Format.parse(dense_format))
        assert same(expected.data, pack.matrix(spec.name).data), spec.name
    for left, right in zip(experts(floats), experts(pack), strict=True):
        assert same(quantise(left.floats, Format.parse(experts_format))[0].data, right.data)
    assert manifest.formats == {"experts": experts_format, "dense": dense_format}
    assert 0 < manifest.errors[f"all of {DENSE}"] != manifest.errors[f"all of {EXPERTS}"] > 0


def test_reported_errors_are_those_of_what_was_written(tmp_path: Path) -> None:
    source = checkpoint(tmp_path)
    manifest = write_pack(source, tmp_path / "pack")
    name = "model.layers.0.mlp.down"
    weight, kept = opened(source).matrix(name).floats.double(), dequantise(opened(tmp_path / "pack").matrix(name))
    relative = float((weight - kept).norm() / weight.norm())
    assert manifest.errors[name] == pytest.approx(relative, rel=1e-4)


def test_slabs_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = checkpoint(tmp_path)
    write_pack(source, tmp_path / "whole")
    monkeypatch.setattr("runtime.pack_tasks.SLAB", 1 << 12)
    write_pack(source, tmp_path / "slabs")
    for name in (DENSE, EXPERTS):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "slabs" / name).read_bytes()


def test_what_a_format_cannot_hold_keeps_its_floats(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, intermediate_size=200)
    manifest = write_pack(source, tmp_path / "pack")
    pack = Pack.open(tmp_path / "pack")
    for part in ("gate_up", "down"):
        matrix = pack.matrix(f"model.layers.0.mlp.{part}")
        assert str(matrix.format) == "bf16"
        assert same(matrix.floats, opened(source).matrix(f"model.layers.0.mlp.{part}").floats)
    assert manifest.formats["dense"] == "w8a8:64 + bf16"


def test_experts_that_a_format_cannot_hold_are_refused(tmp_path: Path) -> None:
    source = checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.experts\.0\.down .*64 cannot be w4a8:128") as raised:
        write_pack(source, tmp_path / "pack", experts="w4a8:128")
    assert "--experts" in raised.value.remedy
    assert not (tmp_path / "pack").exists()


@pytest.mark.parametrize("wrong", ["w5", "w4a8:48", "w4a8:64:zeros", ""])
def test_formats_that_do_not_exist_are_refused(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(FormatChoiceError):
        write_pack(tmp_path, tmp_path / "pack", dense=wrong)


def test_norm_head_is_folded(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, dtype=torch.float32, norm_head=True)
    write_pack(source, tmp_path / "pack", dense="fp32")
    head = load_file(source / "model.safetensors")["lm_head.weight"]
    for weights in (opened(source), opened(tmp_path / "pack")):
        assert torch.allclose(weights.matrix("lm_head").floats, head / head.norm(dim=0), rtol=1e-5, atol=0)


def test_a_tied_head_is_a_matrix_of_its_own(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, tie_word_embeddings=True)
    write_pack(source, tmp_path / "pack")
    embedding = load_file(source / "model.safetensors")["model.word_embeddings.weight"]
    pack = Pack.open(tmp_path / "pack")
    assert same(pack.tensor("model.word_embeddings.weight"), embedding)
    assert same(pack.matrix("lm_head").data, quantise(embedding, Format(8))[0].data)
    assert same(opened(source).matrix("lm_head").floats, embedding)


def test_a_router_in_fp16_is_widened(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, dtype=torch.float16)
    write_pack(source, tmp_path / "pack")
    name = "model.layers.1.mlp.gate.weight"
    expected = load_file(source / "model.safetensors")[name].float()
    assert same(opened(source).tensor(name), expected)
    assert same(opened(tmp_path / "pack").tensor(name), expected)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    source = checkpoint(tmp_path)
    file = source / "model.safetensors"
    content, header = bytearray(file.read_bytes()), json.loads(file.read_bytes()[8 : 8 + _header_bytes(file)])
    for name in ("model.layers.2.mlp.experts.1.up_proj.weight", "model.norm.weight"):
        damaged = content.copy()
        at = 8 + _header_bytes(file) + header[name]["data_offsets"][0]
        damaged[at : at + 2] = b"\x80\x7f"
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.") + ".*finite"):
            write_pack(source, tmp_path / f"pack of {name}")
        assert not is_pack(tmp_path / f"pack of {name}")


def _header_bytes(file: Path) -> int:
    return int.from_bytes(file.read_bytes()[:8], "little")


def test_every_byte_of_a_pack_has_one_place(tmp_path: Path) -> None:
    write_pack(checkpoint(tmp_path), tmp_path / "pack")
    manifest = Manifest.read(tmp_path / "pack")
    for name, parts in file_parts(manifest.dense, manifest.experts).items():
        assert parts[0].start == 0
        assert parts[-1].stop == manifest.files[name].nbytes
        assert all(left.stop == right.start for left, right in pairwise(parts))
        assert all(part.start % PAGE == 0 for part in parts)
        file = (tmp_path / "pack" / name).read_bytes()
        assert all(not any(file[p.start + a : p.start + b]) for p in parts for a, b in p.gaps)


@pytest.mark.parametrize("text", ["w4a8:32", "w8a8:64", "w4a8:128:fp16:zeros", "bf16", "fp32"])
def test_rows_and_gaps_cover_a_matrix(text: str) -> None:
    format, (rows, columns) = Format.parse(text), (48, 128)
    slabs = [row_ranges(format, rows, columns, start, start + 16) for start in range(0, rows, 16)]
    covered = sorted([*(each for slab in slabs for each in slab), *matrix_gaps(format, rows, columns)])
    assert covered[0][0] == 0
    assert covered[-1][1] == format.nbytes(rows, columns)
    assert all(left[1] == right[0] for left, right in pairwise(covered))


def test_experts_are_views_at_their_addresses(tmp_path: Path) -> None:
    write_pack(checkpoint(tmp_path), tmp_path / "pack")
    pack = Pack.open(tmp_path / "pack")
    for layer in (1, 2, 3):
        pool = pack.experts(layer)
        assert pool.addresses.tolist() == [blob.data_ptr() for blob in pool.blobs]
        assert {address % PAGE for address in pool.addresses.tolist()} == {0}
    assert pool.blobs[0].untyped_storage().data_ptr() == pack.experts(1).blobs[0].untyped_storage().data_ptr()
    with pytest.raises(KeyError):
        pack.experts(0)
    with pytest.raises(KeyError):
        pack.matrix("model.norm.weight")


def test_blobs_of_the_real_model_have_the_size_it_was_planned_with() -> None:
    geometry = ExpertGeometry((1,), 256, Format.parse("w4a8:64"), Format.parse("w4a8:64"), 4096, 1024)
    assert geometry.blob_bytes == geometry.content == 6_684_672


def packed(tmp_path: Path) -> Path:
    write_pack(checkpoint(tmp_path), tmp_path / "pack")
    return tmp_path / "pack"


def rewritten(pack: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((pack / MANIFEST).read_text())
    change(content)
    (pack / MANIFEST).write_text(json.dumps(content))


def test_nothing_opens_without_a_manifest(tmp_path: Path) -> None:
    pack = packed(tmp_path)
    (pack / MANIFEST).unlink()
    assert not is_pack(pack)
    with pytest.raises(CheckpointError, match="no finished pack"):
        Pack.open(pack)
    with pytest.raises(CheckpointError, match="no safetensors file"):
        opened(pack)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda content: content.update(version=2), "version 2, and this program reads version 1"),
        (lambda content: content["dense"][3].update(offset=0), "own hash"),
        (lambda content: content.pop("sha256"), "cannot be read"),
    ],
)
def test_a_manifest_that_was_changed_does_not_open(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], named: str
) -> None:
    pack = packed(tmp_path)
    rewritten(pack, change)
    with pytest.raises(CheckpointError, match=named):
        Pack.open(pack)


def test_a_manifest_of_rubbish_does_not_open(tmp_path: Path) -> None:
    pack = packed(tmp_path)
    for rubbish in ("", "[]", '{"version": 1}', '{"version": 1, "sha256": ""}', "\x00"):
        (pack / MANIFEST).write_text(rubbish)
        with pytest.raises(CheckpointError):
            Pack.open(pack)


@pytest.mark.parametrize("name", [DENSE, EXPERTS, "config.json", "tokenizer.json"])
def test_files_that_are_missing_or_cut_are_named(tmp_path: Path, name: str) -> None:
    pack = packed(tmp_path)
    content = (pack / name).read_bytes()
    (pack / name).write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match=rf"{name} has \d+ bytes instead of \d+"):
        Pack.open(pack, ModelConfig.from_directory(tmp_path / "model"))
    (pack / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        Pack.open(pack, ModelConfig.from_directory(tmp_path / "model"))


def test_a_config_of_another_model_is_refused(tmp_path: Path) -> None:
    pack = packed(tmp_path)
    other = ModelConfig.from_directory(checkpoint(tmp_path / "other", num_experts=4, intermediate_size=64))
    with pytest.raises(CheckpointError) as raised:
        Pack.open(pack, other)
    assert "model.layers.0.mlp.gate_up: its config calls for" in str(raised.value)
    assert "experts: its config calls for" in str(raised.value)


def test_opening_touches_no_expert(tmp_path: Path) -> None:
    pack = packed(tmp_path)
    size = (pack / EXPERTS).stat().st_size
    before = (pack / EXPERTS).stat().st_mtime_ns
    with (pack / EXPERTS).open("r+b") as file:
        file.write(b"\xff" * size)
    os.utime(pack / EXPERTS, ns=(before, before))
    assert all(int(blob[0]) == 255 for blob in Pack.open(pack).experts(1).blobs)


def test_a_pack_that_is_whole_is_verified(tmp_path: Path) -> None:
    pack = packed(tmp_path)
    told: list[tuple[int, int]] = []
    check_pack(pack, lambda done, total: told.append((done, total)))
    assert told[-1] == (sum((pack / name).stat().st_size for name in (DENSE, EXPERTS)),) * 2


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_a_flipped_bit_is_named(tmp_path: Path) -> None:
    pack = packed(tmp_path)
    manifest = Manifest.read(pack)
    size, count = manifest.experts.blob_bytes, manifest.experts.count
    flip(pack / EXPERTS, (count + 5) * size + 77)
    flip(pack / EXPERTS, (2 * count + 1) * size - 1 + size)
    flip(pack / DENSE, manifest.dense[4].offset)
    flip(pack / "config.json", 5)
    with pytest.raises(CheckpointError) as raised:
        check_pack(pack)
    text = raised.value.message
    assert f"{EXPERTS}, layer 2, expert 5: the bytes are not those written" in text
    assert f"{EXPERTS}, layer 3, expert 1: its padding is not all 0" in text
    assert f"{DENSE}, {manifest.dense[4].name}: the bytes" in text
    assert "config.json is not as it was written" in text
    assert text.count("the bytes are not those written") == 3


def test_padding_between_the_planes_is_verified(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, hidden_size=96, num_attention_heads=3, num_key_value_heads=1)
    write_pack(source, tmp_path / "pack", experts="w4a8:32", dense="w8a8:32")
    geometry = Manifest.read(tmp_path / "pack").experts
    assert len(geometry.blob_gaps()) > 0
    for start, _ in geometry.blob_gaps():
        flip(tmp_path / "pack" / EXPERTS, geometry.blob_bytes + start)
        with pytest.raises(CheckpointError, match="layer 1, expert 1: its padding is not all 0"):
            check_pack(tmp_path / "pack")
        flip(tmp_path / "pack" / EXPERTS, geometry.blob_bytes + start)
    check_pack(tmp_path / "pack")


class StoppedError(Exception):
    pass


def stop_after(count: int) -> Callable[[int, int], None]:
    calls = iter(range(count))

    def tell(done: int, total: int) -> None:
        if next(calls, None) is None:
            raise StoppedError

    return tell


@pytest.mark.parametrize("count", [0, 1, 20, 45])
def test_what_was_interrupted_goes_on(tmp_path: Path, count: int) -> None:
    source, all_told = checkpoint(tmp_path), list[int]()
    write_pack(source, tmp_path / "whole", telling=Telling(lambda done, total: all_told.append(done)))
    with pytest.raises(StoppedError):
        write_pack(source, tmp_path / "pack", telling=Telling(packing=stop_after(count)))
    assert not is_pack(tmp_path / "pack")
    told: list[int] = []
    said: list[str] = []
    write_pack(source, tmp_path / "pack", telling=Telling(lambda done, total: told.append(done), None, said.append))
    assert said == []
    assert told == all_told[count + 1 :]
    assert contents(tmp_path / "pack") == contents(tmp_path / "whole")


KILLED = """
import os, signal, sys
from pathlib import Path
from runtime import pack_journal, packing
add, calls = pack_journal.Journal.add, iter(range(int(sys.argv[3])))
def add_or_die(self, key, done):
    add(self, key, done)
    if next(calls, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
pack_journal.Journal.add = add_or_die
packing.write_pack(sys.argv[1], sys.argv[2])
"""


def test_what_was_killed_goes_on(tmp_path: Path) -> None:
    source, all_told = checkpoint(tmp_path), list[int]()
    write_pack(source, tmp_path / "whole", telling=Telling(lambda done, total: all_told.append(done)))
    arguments = [sys.executable, "-c", KILLED, str(source), str(tmp_path / "pack"), "30"]
    killed = subprocess.run(arguments, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not is_pack(tmp_path / "pack")
    assert len((tmp_path / "pack" / JOURNAL).read_text().splitlines()) == 32
    told: list[int] = []
    write_pack(source, tmp_path / "pack", telling=Telling(lambda done, total: told.append(done)))
    assert told == all_told[31:]
    assert contents(tmp_path / "pack") == contents(tmp_path / "whole")


def test_what_the_journal_says_is_not_believed(tmp_path: Path) -> None:
    source = checkpoint(tmp_path)
    write_pack(source, tmp_path / "whole")
    with pytest.raises(StoppedError):
        write_pack(source, tmp_path / "pack", telling=Telling(packing=stop_after(55)))
    flip(tmp_path / "pack" / EXPERTS, 100)
    flip(tmp_path / "pack" / DENSE, 100)
    with (tmp_path / "pack" / JOURNAL).open("a") as journal:
        journal.write('["blob 23", "00", [1')
    write_pack(source, tmp_path / "pack")
    assert contents(tmp_path / "pack") == contents(tmp_path / "whole")


@pytest.mark.parametrize("change", ["formats", "source"])
def test_another_pack_is_started_anew(tmp_path: Path, change: str) -> None:
    source = checkpoint(tmp_path)
    with pytest.raises(StoppedError):
        write_pack(source, tmp_path / "pack", telling=Telling(packing=stop_after(50)))
    if change == "source":
        make_tiny_checkpoint(source, seed=1, dtype=BF16)
    formats = {"dense": "w8a8:32"} if change == "formats" else {}
    said: list[str] = []
    write_pack(source, tmp_path / "pack", telling=Telling(announce=said.append), **formats)
    write_pack(source, tmp_path / "whole", **formats)
    assert "started anew" in said[0]
    assert contents(tmp_path / "pack") == contents(tmp_path / "whole")


def test_a_finished_pack_is_verified_and_kept(tmp_path: Path) -> None:
    pack, before = packed(tmp_path), contents(tmp_path / "pack")
    said: list[str] = []
    write_pack(tmp_path / "model", pack, telling=Telling(announce=said.append))
    assert "already" in said[0]
    assert contents(pack) == before
    with pytest.raises(CheckpointError, match="in other formats"):
        write_pack(tmp_path / "model", pack, experts="w8a8:64")
    flip(pack / EXPERTS, 3)
    with pytest.raises(CheckpointError, match="layer 1, expert 0") as raised:
        write_pack(tmp_path / "model", pack)
    assert "Remove" in raised.value.remedy


def test_a_directory_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    source = checkpoint(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("Dear")
    for place, named in ((tmp_path / "full", "letter.txt"), (source, "model.safetensors")):
        before = contents(place)
        with pytest.raises(CheckpointError, match=f"other files, such as {named}"):
            write_pack(source, place)
        assert contents(place) == before
    with pytest.raises(CheckpointError, match="is a pack already"):
        write_pack(packed(tmp_path), tmp_path / "again")


def test_two_cannot_pack_into_one_directory(tmp_path: Path) -> None:
    source = checkpoint(tmp_path)
    refused: list[CheckpointError] = []

    def second(done: int, total: int) -> None:
        if not refused:
            with pytest.raises(CheckpointError, match="another process") as raised:
                write_pack(source, tmp_path / "pack")
            refused.append(raised.value)

    write_pack(source, tmp_path / "pack", telling=Telling(packing=second))
    assert refused
    check_pack(tmp_path / "pack")


def test_too_little_room_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = checkpoint(tmp_path)
    monkeypatch.setattr("runtime.packing.shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(CapacityError, match=r"needs [\d.]+ GiB more, and its disk has 0\.00 GiB free"):
        write_pack(source, tmp_path / "pack")
    assert not is_pack(tmp_path / "pack")
    monkeypatch.undo()
    write_pack(source, tmp_path / "pack")


@pytest.mark.parametrize("count", [3, 40])
def test_a_disk_that_fills_up_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    source, pwrite, calls = checkpoint(tmp_path), os.pwrite, iter(range(count))

    def full(file: int, data: bytes, offset: int) -> int:
        if next(calls, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(file, data, offset)

    monkeypatch.setattr("runtime.pack_files.os.pwrite", full)
    with pytest.raises(CapacityError, match=r"\.bin cannot be written: the disk is full") as raised:
        write_pack(source, tmp_path / "pack")
    assert "resumes" in raised.value.remedy
    assert not is_pack(tmp_path / "pack")
    monkeypatch.undo()
    write_pack(source, tmp_path / "pack")
    write_pack(source, tmp_path / "whole")
    assert contents(tmp_path / "pack") == contents(tmp_path / "whole")


LIMITED = """
import resource, signal, sys
from runtime import packing
from runtime.errors import AntangelError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    packing.write_pack(sys.argv[1], sys.argv[2])
except AntangelError as error:
    print(type(error).__name__, error.message, error.remedy, sep="|")
"""


def test_a_file_that_may_not_grow_is_one_error(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    arguments = [sys.executable, "-c", LIMITED, str(checkpoint(tmp_path)), str(tmp_path / "pack")]
    limited = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60)
    assert limited.stdout.startswith(f"CapacityError|{tmp_path / 'pack' / DENSE} cannot be written: File too large")
    assert not is_pack(tmp_path / "pack")


def test_a_shard_that_shrinks_while_it_is_read_is_named(tmp_path: Path) -> None:
    source = checkpoint(tmp_path)

    def tear(done: int, total: int) -> None:
        os.truncate(source / "model.safetensors", 100_000)

    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged: it ends before byte") as raised:
        write_pack(source, tmp_path / "pack", telling=Telling(packing=tear))
    assert raised.value.remedy == "Download model.safetensors again."
    assert not is_pack(tmp_path / "pack")


def test_a_torn_shard_is_named_before_anything_is_written(tmp_path: Path) -> None:
    source = checkpoint(tmp_path)
    os.truncate(source / "model.safetensors", 1_000_000)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged: it has 1000000 bytes"):
        write_pack(source, tmp_path / "pack")
    assert not (tmp_path / "pack").exists()


def test_a_disk_that_gives_back_other_bytes_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, pwrite = checkpoint(tmp_path), os.pwrite

    def lying(file: int, data: memoryview, offset: int) -> int:
        if len(data) == blob_bytes and offset == 9 * blob_bytes:
            data = memoryview(bytes(data[:-1]) + b"\x01")
        return pwrite(file, data, offset)

    blob_bytes = ExpertGeometry((1,), 8, Format(4), Format(4), 128, 64).blob_bytes
    monkeypatch.setattr("runtime.pack_files.os.pwrite", lying)
    with pytest.raises(CheckpointError, match=r"reads back otherwise: .*layer 2, expert 1.*blob 9"):
        write_pack(source, tmp_path / "pack")
    assert not is_pack(tmp_path / "pack")
    monkeypatch.undo()
    write_pack(source, tmp_path / "pack")
    check_pack(tmp_path / "pack")


def test_stacked_rows_are_what_the_parts_are(tmp_path: Path) -> None:
    source = checkpoint(tmp_path)
    write_pack(source, tmp_path / "pack")
    stored = load_file(source / "model.safetensors")
    names = [f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up")]
    parts = [quantise(stored[name], Format(8))[0] for name in names]
    assert same(Pack.open(tmp_path / "pack").matrix("model.layers.0.mlp.gate_up").data, stack_rows(parts).data)
