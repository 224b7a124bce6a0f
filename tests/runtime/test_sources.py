"""Source formats: int4 is packed without loss, FP8 as the floats it stands for, and the rest is refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kernels.formats import Format, Matrix, dequantise, quantise
from runtime.errors import CheckpointError
from runtime.inventory import MatrixSpec, dense_matrices, expert_matrices
from runtime.pack import Pack
from runtime.packing import write_pack
from runtime.shards import read_headers
from tests.runtime.stored import WIDE, Encode, Int4, Stored, block_fp8, compressed_tensors, encoded, gptq
from tests.runtime.tiny import make_tiny_checkpoint

CT = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
GROUPS = (32, 64, 128)


def gptq_settings(version: str, *, symmetric: bool) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": 4, "checkpoint_format": version, "sym": symmetric, "desc_act": False}


def packed(stored: Stored) -> Pack:
    write_pack(stored.path, stored.path.with_name("pack"))
    return Pack.open(stored.path.with_name("pack"))


def matrices(pack: Pack) -> Iterator[tuple[MatrixSpec, Matrix]]:
    """Every matrix of a pack with the names of what it is made of."""
    for spec in dense_matrices(pack.config):
        yield spec, pack.matrix(spec.name)
    for layer in pack.manifest.experts.layers:
        pool = pack.experts(layer)
        for expert in range(pack.config.num_experts):
            specs, weights = expert_matrices(pack.config, layer, expert), pool.expert(expert)
            yield from zip(specs, (weights.gate_up, weights.down), strict=True)


def require_lossless(stored: Stored, format: Format) -> None:
    seen = 0
    for spec, matrix in matrices(packed(stored)):
        if spec.parts[0] not in stored.weights:
            continue
        expected = torch.cat([stored.weights[name] for name in spec.parts])
        assert matrix.format == format, spec.name
        assert torch.equal(dequantise(matrix).view(torch.int32), expected.view(torch.int32)), spec.name
        seen += len(spec.parts)
    assert seen == len(stored.weights) > 90


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("scale", ["bf16", "fp16"])
def test_compressed_tensors_keeps_every_number(tmp_path: Path, scale: str, group: int, *, symmetric: bool) -> None:
    int4 = Int4(group, {"bf16": torch.bfloat16, "fp16": torch.float16}[scale], symmetric)
    stored = encoded(tmp_path / "model", compressed_tensors(int4), CT)
    require_lossless(stored, Format(4, group, scale, zeros=not symmetric))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
def test_gptq_keeps_every_number(tmp_path: Path, version: str, group: int, *, symmetric: bool) -> None:
    encode = gptq(Int4(group, torch.float16, symmetric), version, lambda columns: torch.arange(columns) // group)
    stored = encoded(tmp_path / "model", encode, gptq_settings(version, symmetric=symmetric))
    require_lossless(stored, Format(4, group, "fp16", zeros=not symmetric))


def test_the_zero_points_of_gptq_reach_sixteen(tmp_path: Path) -> None:
    def encode(name: str, shape: tuple[int, int]) -> tuple[dict[str, Tensor], Tensor]:
        parts, _ = gptq(int4, "gptq")(name, shape)
        parts["qzeros"] = torch.full_like(parts["qzeros"], -1)
        q, scales, zeros = int4.draw(name, shape)
        return parts, int4.weight(q, scales, torch.full_like(zeros, 16))

    int4 = Int4(64, torch.float16, symmetric=False)
    stored = encoded(tmp_path / "model", encode, gptq_settings("gptq", symmetric=False))
    require_lossless(stored, Format(4, 64, "fp16", zeros=True))


def test_a_large_matrix_is_cut_into_slabs_without_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.pack_tasks.SLAB", 1 << 12)
    int4 = Int4(32, torch.bfloat16, symmetric=False)
    require_lossless(encoded(tmp_path / "a" / "model", compressed_tensors(int4), CT), Format(4, 32, "bf16", zeros=True))
    encode, settings = gptq(int4, "gptq"), gptq_settings("gptq", symmetric=False)
    require_lossless(encoded(tmp_path / "b" / "model", encode, settings), Format(4, 32, "bf16", zeros=True))


def test_block_fp8_is_quantised_from_the_floats_it_stands_for(tmp_path: Path) -> None:
    stored = encoded(tmp_path / "model", block_fp8, {"quant_method": "fp8", "weight_block_size": [128, 128]})
    assert any(weight.shape[0] > 128 for weight in stored.weights.values())
    seen = 0
    for spec, matrix in matrices(packed(stored)):
        if spec.parts[0] in stored.weights:
            expected, _ = quantise(torch.cat([stored.weights[name] for name in spec.parts]), matrix.format)
            assert torch.equal(matrix.data, expected.data), spec.name
            seen += len(spec.parts)
    assert seen == len(stored.weights)


@pytest.mark.parametrize("block", [32, 48])
def test_rows_of_fp8_may_begin_within_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    def encode(name: str, shape: tuple[int, int]) -> tuple[dict[str, Tensor], Tensor]:
        factors = torch.rand(-(-shape[0] // block), -(-shape[1] // block))
        weight = torch.randn(shape).to(torch.float8_e4m3fn)
        wide = factors.repeat_interleave(block, 0).repeat_interleave(block, 1)[: shape[0], : shape[1]]
        return {"weight": weight, "weight_scale_inv": factors}, weight.float() * wide

    monkeypatch.setattr("runtime.pack_tasks.SLAB", 1 << 12)
    stored = encoded(tmp_path / "model", encode, {"quant_method": "fp8", "weight_block_size": [block, block]})
    for spec, matrix in matrices(packed(stored)):
        if spec.parts[0] in stored.weights:
            expected, _ = quantise(torch.cat([stored.weights[name] for name in spec.parts]), matrix.format)
            assert torch.equal(matrix.data, expected.data), spec.name


def refused(stored: Stored, *named: str) -> CheckpointError:
    with pytest.raises(CheckpointError) as raised:
        write_pack(stored.path, stored.path.with_name("pack"))
    assert not (stored.path.with_name("pack") / "manifest.json").exists()
    for text in named:
        assert text in str(raised.value)
    return raised.value


INT4 = Int4(64, torch.float16, symmetric=True)


def shuffled(columns: int) -> Tensor:
    return (torch.arange(columns) // 64).flip(0).int()


@pytest.mark.parametrize(
    ("encode", "settings", "order"),
    [
        (compressed_tensors(INT4, shuffled), CT, "weight_g_idx"),
        (gptq(INT4, "gptq", shuffled), gptq_settings("gptq", symmetric=True), "g_idx"),
    ],
)
def test_an_order_by_activation_is_refused(
    tmp_path: Path, encode: Encode, settings: dict[str, Any], order: str
) -> None:
    stored = encoded(tmp_path / "model", encode, settings)
    refused(stored, f"model.layers.0.attention.query_key_value.{order}", "sorts its columns", "docs/pack.md")


@pytest.mark.parametrize("actorder", ["static", "weight", None])
def test_a_static_order_is_none(tmp_path: Path, actorder: str | None) -> None:
    settings = CT | {"config_groups": {"group_0": {"weights": {"num_bits": 4, "actorder": actorder}}}}
    stored = encoded(
        tmp_path / "model", compressed_tensors(INT4, lambda columns: torch.arange(columns) // 64), settings
    )
    require_lossless(stored, Format(4, 64, "fp16"))


def test_symmetric_gptq_with_other_zero_points_is_refused(tmp_path: Path) -> None:
    encode = gptq(Int4(64, torch.float16, symmetric=False), "gptq_v2")
    stored = encoded(tmp_path / "model", encode, gptq_settings("gptq_v2", symmetric=True))
    refused(stored, ".qzeros", "sym is true")


def test_awq_and_unknown_versions_of_gptq_are_refused(tmp_path: Path) -> None:
    stored = encoded(tmp_path / "a" / "model", gptq(INT4, "gptq"), {"quant_method": "awq"})
    refused(stored, "AWQ int4")
    stored = encoded(tmp_path / "b" / "model", gptq(INT4, "gptq"), gptq_settings("marlin", symmetric=True))
    refused(stored, "checkpoint_format 'marlin'")


def edited(stored: Stored, change: dict[str, Tensor | None]) -> Stored:
    """The checkpoint with tensors replaced or, where None, removed."""
    tensors: dict[str, Any] = {**load_file(stored.path / "model.safetensors"), **change}
    save_file({k: v for k, v in tensors.items() if v is not None}, stored.path / "model.safetensors")
    return stored


DOWN = "model.layers.1.mlp.experts.3.down_proj"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({f"{DOWN}.weight_scale": None}, f"lacks {DOWN}.weight_scale"),
        ({f"{DOWN}.weight_scale": torch.ones(128, 2)}, "F32, and scales are kept"),
        ({f"{DOWN}.weight_scale": torch.ones(128, 3).half()}, "do not divide into 3 groups"),
        ({f"{DOWN}.weight_scale": torch.ones(128, 8).half()}, "groups are of 32, 64 or 128"),
        ({f"{DOWN}.weight_scale": torch.ones(64, 2).half()}, "is [64, 2] F16, expected [128, 2]"),
        ({f"{DOWN}.weight_packed": torch.ones(128, 32).int()}, "is [128, 32] I32, expected [128, 16]"),
        ({f"{DOWN}.weight_shape": torch.tensor([128, 120])}, "weight_shape says [128, 120]"),
        ({f"{DOWN}.weight_packed": None}, f"missing  {DOWN}.weight"),
        ({f"{DOWN}.input_scale": torch.ones(1)}, f"extra    {DOWN}.input_scale"),
        ({f"{DOWN}.weight_scale": torch.full((128, 2), torch.inf).half()}, "is not finite"),
    ],
)
def test_int4_that_is_not_whole_is_refused_by_name(
    tmp_path: Path, change: dict[str, Tensor | None], named: str
) -> None:
    stored = edited(encoded(tmp_path / "model", compressed_tensors(INT4), CT), change)
    refused(stored, DOWN, named)


def test_experts_of_two_formats_are_refused_naming_both(tmp_path: Path) -> None:
    def encode(name: str, shape: tuple[int, int]) -> tuple[dict[str, Tensor], Tensor]:
        other = Int4(32, torch.float16, symmetric=True)
        return compressed_tensors(other if "layers.2.mlp.experts.5." in name else INT4)(name, shape)

    stored = encoded(tmp_path / "model", encode, CT)
    refused(stored, "layers.2.mlp.experts.5.gate_up", "w4a8:32:fp16", "w4a8:64:fp16")


def test_a_matrix_of_two_formats_is_refused_naming_both(tmp_path: Path) -> None:
    stored = encoded(tmp_path / "model", compressed_tensors(INT4), CT)
    base = "model.layers.0.mlp.up_proj"
    parts = {f"{base}.weight_{part}": None for part in ("packed", "scale", "shape")}
    refused(
        edited(stored, {**parts, f"{base}.weight": torch.zeros(256, 128)}),
        f"{base}.weight is floats",
        "model.layers.0.mlp.gate_proj.weight is compressed-tensors int4",
    )


def test_fp8_of_another_kind_is_refused(tmp_path: Path) -> None:
    def per_row(name: str, shape: tuple[int, int]) -> tuple[dict[str, Tensor], Tensor]:
        weight = torch.zeros(shape).to(torch.float8_e4m3fn)
        return {"weight": weight, "weight_scale": torch.ones(shape[0], 1)}, weight.float()

    stored = encoded(tmp_path / "model", per_row, {"quant_method": "compressed-tensors"})
    refused(stored, "without model.layers.0.attention.query_key_value.weight_scale_inv")


def test_int4_with_norm_head_is_refused(tmp_path: Path) -> None:
    parts, _ = compressed_tensors(INT4)("lm_head.weight", (832, 128))
    stored = encoded(tmp_path / "model", compressed_tensors(INT4), CT, norm_head=True)
    head = {f"lm_head.{suffix}": part.contiguous() for suffix, part in parts.items()}
    refused(edited(stored, {**head, "lm_head.weight": None}), "lm_head.weight", "norm_head")


def test_a_quantised_mtp_projection_is_found(tmp_path: Path) -> None:
    name = "model.layers.3.eh_proj"
    parts, weight = compressed_tensors(INT4)(f"{name}.weight", (128, 256))
    stored = encoded(tmp_path / "model", compressed_tensors(INT4), CT)
    extra = {f"{name}.{suffix}": part.contiguous() for suffix, part in parts.items()}
    pack = packed(edited(stored, {**extra, f"{name}.weight": None}))
    assert pack.config.num_nextn_predict_layers == 1
    assert torch.equal(dequantise(pack.matrix(name)), weight)


def test_the_config_of_the_pack_is_the_source_s_but_for_its_quantisation(tmp_path: Path) -> None:
    stored = encoded(tmp_path / "model", compressed_tensors(INT4), CT, antangel_demonstration=True)
    packed(stored)
    theirs = json.loads((stored.path / "config.json").read_text())
    assert theirs.pop("quantization_config") == CT
    assert json.loads((tmp_path / "pack" / "config.json").read_text()) == theirs


def test_rows_and_columns_are_read_alone(tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path, **WIDE)
    stored = read_headers(tmp_path)["lm_head.weight"]
    whole = load_file(tmp_path / "model.safetensors")["lm_head.weight"]
    assert torch.equal(stored.read(), whole)
    assert torch.equal(stored.read(32, 80), whole[32:80])
    assert torch.equal(stored.read_columns(16, 24), whole[:, 16:24])
