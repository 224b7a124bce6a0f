"""A forward pass over a few rows, as launches that a graph can hold: no host between the first layer and the last."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.gpu.attention import Workspace, decode_floats, launch_decode_attention
from kernels.gpu.norm import launch_rms_norm
from kernels.gpu.query_key_value import launch_heads
from kernels.ops import SwiGLUWeights
from runtime.config import ModelConfig
from runtime.gpu.branches import Branches, Mark
from runtime.gpu.dense_step import DenseStep
from runtime.gpu.expert_step import ExpertStep, Paths
from runtime.gpu.scratch import Scratch
from runtime.gpu.step_rows import StepRows, provided_blocks
from runtime.kv_cache import KVCache
from runtime.layers import DecoderLayer
from runtime.rope import RopeTable

# Rows whose attention is computed at once: what lies between its kernels grows with rows and context.
ATTENTION_ROWS = 16


class LayerStep:
    """Launches all layers. What it writes to is scratch; what is not finite is noted in `faults` by layer."""

    def __init__(
        self,
        config: ModelConfig,
        layers: Sequence[DecoderLayer],
        norm: Tensor,
        rope: RopeTable,
        scratch: Scratch,
        dense: DenseStep,
        experts: ExpertStep,
        branches: Branches,
    ) -> None:
        self._config = config
        self._layers = layers
        self._norm = norm
        self._rope = rope
        self._scratch = scratch
        self._dense = dense
        self._experts = experts
        self._branches = branches
        self._workspace: Workspace | None = None
        self.faults = torch.zeros(len(layers), dtype=torch.int32, device=scratch.device)

    def out(self, rows: int) -> Tensor:
        """Where hidden states after the final norm come, fp32 [T, M]."""
        return self._scratch.rows("out", rows, self._config.hidden_size)

    def launch(self, rows: StepRows, paths: Paths) -> None:
        """All layers and the final norm."""
        self.faults.zero_()
        x = rows.inputs.x
        ahead: Mark = None
        for layer, following in zip(self._layers, [*self._layers[1:], None], strict=True):
            fault = self.faults[layer.index : layer.index + 1]
            middle = self._attend(layer, x, rows, fault)
            x = self._scratch.rows("x", *middle.shape)
            if isinstance(layer.mlp, SwiGLUWeights):
                self._feed_forward(layer, layer.mlp, middle, x, fault)
            else:
                ahead = self._experts.launch(layer, following, middle, x, rows, paths, ahead, fault)
        self._branches.wait(ahead)
        launch_rms_norm(x, self._norm, self._config.rms_norm_eps, self.out(rows.count), None, None)

    def _attend(self, layer: DecoderLayer, x: Tensor, rows: StepRows, fault: Tensor) -> Tensor:
        """x plus its attention."""
        weights, count, scratch = layer.attention, rows.count, self._scratch
        projected = scratch.rows("projected", count, weights.query_key_value.rows)
        self._dense.normed_linear(x, weights.input_norm, weights.query_key_value, projected, fault)
        keys, values = rows.cache.layers[layer.index]
        q = scratch.rows("queries", count, weights.heads, weights.width)
        launch_heads(
            projected,
            weights.head_norm,
            weights.eps,
            weights.heads,
            weights.kv_heads,
            self._rope.cos,
            self._rope.sin,
            keys,
            values,
            rows.inputs.slots,
            q,
            positions=rows.inputs.positions,
        )
        attended = scratch.rows("attended", count, weights.heads * weights.width)
        self._attention(q, keys, values, rows, attended)
        # The layer before may still be guessing from its own.
        middle = scratch.rows(f"middle {layer.index % 2}", *x.shape)
        self._dense.linear(attended, layer.dense, middle, x, fault)
        return middle

    def _attention(self, q: Tensor, keys: Tensor, values: Tensor, rows: StepRows, out: Tensor) -> None:
        attention, workspace = rows.attention, self._attention_workspace(rows.cache)
        for start in range(0, rows.count, ATTENTION_ROWS):
            some = slice(start, start + ATTENTION_ROWS)
            part = attention.part(start, start + ATTENTION_ROWS)
            launch_decode_attention(q[some], keys, values, part, self._config.head_dim**-0.5, out[some], workspace)

    def _attention_workspace(self, cache: KVCache) -> Workspace:
        """For as many blocks as the positions that there are angles for."""
        if self._workspace is None:
            heads, width, size = self._config.num_attention_heads, self._config.head_dim, cache.block_size
            blocks = provided_blocks(-(-len(self._rope.cos) // size))
            rows = min(ATTENTION_ROWS, self._scratch.most)
            floats = decode_floats(rows, blocks, heads, width, size)
            self._workspace = Workspace.empty(floats, self._scratch.device)
        return self._workspace

    def _feed_forward(
        self, layer: DecoderLayer, mlp: SwiGLUWeights, middle: Tensor, out: Tensor, fault: Tensor
    ) -> None:
        normed = self._scratch.rows("normed", *middle.shape)
        launch_rms_norm(middle, layer.post_attention_norm, self._config.rms_norm_eps, normed, None, None)
        self._dense.swiglu(mlp, self._dense.operand(normed, mlp.gate_up, fault), out, middle, fault)
