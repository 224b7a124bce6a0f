"""What attention launches: of decoded rows, and of prompts."""

from __future__ import annotations

from functools import partial

import torch

from kernels.gpu.attention import Rows, Workspace, decode_floats, launch_decode_attention
from kernels.gpu.prefill_attention import QUERIES, Tiles, launch_prefill_attention, tile_floats
from tests.kernels.gpu.compiling import Case

# Heads, KV heads, width, block size, and how a cache keeps numbers.
SHAPES = {
    "103b": (32, 4, 128, 64, torch.bfloat16),
    "103b:fp32": (32, 4, 128, 64, torch.float32),
    "small": (4, 2, 32, 16, torch.bfloat16),
    "single": (2, 2, 32, 16, torch.float32),
}


def _decode(
    tokens: int, most_blocks: int, heads: int, kv_heads: int, width: int, size: int, dtype: torch.dtype
) -> None:
    whole = torch.empty(tokens, dtype=torch.int32)
    rows = Rows(whole, whole, torch.empty(most_blocks, dtype=torch.int32), most_blocks)
    workspace = Workspace.empty(decode_floats(tokens, most_blocks, heads, width, size), torch.device("cpu"))
    keys = torch.empty(512, kv_heads, width, size, dtype=dtype)
    q, out = torch.empty(tokens, heads, width), torch.empty(tokens, heads * width)
    launch_decode_attention(q, keys, keys.view(512, kv_heads, size, width), rows, 0.1, out, workspace)


def _prefill(heads: int, kv_heads: int, width: int, size: int, dtype: torch.dtype) -> None:
    count, most_blocks = 512 // (QUERIES * kv_heads // heads), 512
    table, blocks = torch.empty(count, 4, dtype=torch.int32), torch.empty(most_blocks, dtype=torch.int32)
    tiles = Tiles(table, (most_blocks,) * count, blocks)
    workspace = Workspace.empty(tile_floats(most_blocks, kv_heads, size), torch.device("cpu"))
    keys = torch.empty(512, kv_heads, width, size, dtype=dtype)
    q, out = torch.empty(512, heads, width), torch.empty(512, heads * width)
    launch_prefill_attention(q, keys, keys.view(512, kv_heads, size, width), tiles, 0.1, out, workspace)


# Keys and values of the large model arrive sixteen bytes at a time, beside arithmetic.
TRAITS = {"103b": (r"cp\.async\.cg.*, 0x10",), "103b:fp32": (r"cp\.async\.cg.*, 0x10",)}

CASES = [
    Case(f"attention:{name}:{shape}", lambda call=call, shape=shape: call(*SHAPES[shape]), TRAITS.get(shape, ()))
    for name, call in (("decode", partial(_decode, 2, 512)), ("prefill", _prefill))
    for shape in SHAPES
]
