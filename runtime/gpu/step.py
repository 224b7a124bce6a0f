"""A forward pass over a few rows, as launches that a graph can hold: no host between the first layer and the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.formats import Matrix
from kernels.gpu.attention import Rows, Workspace, launch_decode_attention
from kernels.gpu.combine import launch_combine
from kernels.gpu.experts import launch_down, launch_gate_up
from kernels.gpu.feed_forward import launch_swiglu
from kernels.gpu.float_linear import launch_float_linear
from kernels.gpu.linear import launch_linear
from kernels.gpu.norm import launch_rms_norm
from kernels.gpu.quantise import Quantised, launch_quantise
from kernels.gpu.query_key_value import launch_heads
from kernels.gpu.tables import Kind
from kernels.ops import SwiGLUWeights
from runtime.config import ModelConfig
from runtime.gpu.branches import Branches, Mark
from runtime.gpu.expert_step import ExpertStep
from runtime.gpu.scratch import Scratch
from runtime.gpu.step_inputs import StepInputs
from runtime.kv_cache import KVCache
from runtime.layers import DecoderLayer
from runtime.moe import MoELayer
from runtime.rope import RopeTable


@dataclass(frozen=True)
class StepRows:
    """What the launches of one step share: T rows, and how many blocks of keys one may see."""

    inputs: StepInputs
    cache: KVCache
    blocks: int
    is_forced: bool  # experts are those of the inputs

    @property
    def count(self) -> int:
        return self.inputs.x.shape[0]

    @property
    def attention(self) -> Rows:
        return Rows(self.inputs.first, self.inputs.seen, self.inputs.block_table, self.blocks)


class LayerStep:
    """Launches whole layers. What it writes to is taken from `scratch`; what goes wrong is noted in `faults` by layer."""

    def __init__(
        self,
        config: ModelConfig,
        layers: Sequence[DecoderLayer],
        norm: Tensor,
        rope: RopeTable,
        scratch: Scratch,
        experts: ExpertStep,
        branches: Branches,
    ) -> None:
        self._config = config
        self._layers = layers
        self._norm = norm
        self._rope = rope
        self._scratch = scratch
        self._experts = experts
        self._branches = branches
        self.faults = torch.zeros(len(layers), dtype=torch.int32, device=scratch.device)

    def launch(self, rows: StepRows) -> Tensor:
        """All layers and the final norm: hidden states fp32 [T, M], in the scratch."""
        x = rows.inputs.x
        ahead: Mark = None
        for layer, following in zip(self._layers, [*self._layers[1:], None], strict=True):
            middle = self._attend(layer, x, rows)
            x = self._scratch.rows("x", rows.count, self._config.hidden_size)
            if isinstance(layer.mlp, SwiGLUWeights):
                self._feed_forward(layer, layer.mlp, middle, x)
            else:
                ahead = self._experts.launch(layer, following, middle, x, rows, ahead, self.faults[layer.index :][:1])
        self._branches.wait(ahead)
        out = self._scratch.rows("out", rows.count, self._config.hidden_size)
        launch_rms_norm(x, self._norm, self._config.rms_norm_eps, out, None, None)
        return out

    def _attend(self, layer: DecoderLayer, x: Tensor, rows: StepRows) -> Tensor:
        """x plus its attention."""
        weights, count, scratch = layer.attention, rows.count, self._scratch
        fault = self.faults[layer.index :][:1]
        projected = scratch.rows("projected", count, weights.query_key_value.rows)
        self._normed_product(x, weights.input_norm, weights.query_key_value, projected, fault)
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
        launch_decode_attention(
            q, keys, values, rows.attention, self._config.head_dim**-0.5, attended, self._workspace(rows, weights.heads)
        )
        middle = scratch.rows("middle", count, self._config.hidden_size)
        self._product(attended, layer.dense, middle, x, fault)
        return middle
