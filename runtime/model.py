"""The decoder: embedding, layers of attention and feed-forward, norm, head; and the multi-token layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.ops import AttentionPlan, Ops, plan_attention
from kernels.registry import Choice, choose
from runtime.checkpoint import Checkpoint
from runtime.config import EngineConfig, ModelConfig
from runtime.hardware import number_type
from runtime.kv_cache import KVCache
from runtime.moe import DenseLayer, MoELayer, Router, Routing, SwiGLUWeights
from runtime.rope import RopeTable
from runtime.sequence import Batch

# Told the layer and its expert ids [T, K] at every step.
RoutingObserver = Callable[[int, Tensor], None]

# Told how many layers are loaded, and of how many.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Step:
    """What all layers of one forward pass share."""

    cos: Tensor  # [T, R/2]
    sin: Tensor  # [T, R/2]
    slots: Tensor  # [T]
    attention: AttentionPlan
    cache: KVCache


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention with RMSNorm on each query and key head, before they are rotated."""

    ops: Ops
    config: ModelConfig
    layer: int
    query_key_value: Tensor  # [(H + 2G) D, M], rows of all queries, then keys, then values
    head_norm: Tensor  # [H + G, D]
    dense: Tensor  # [M, H D]

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        heads, kv_heads = self.config.num_attention_heads, self.config.num_key_value_heads
        qkv = self.ops.linear(x, self.query_key_value).view(x.shape[0], -1, self.config.head_dim)
        qk, v = torch.split(qkv, [heads + kv_heads, kv_heads], dim=1)
        normed = self.ops.rms_norm(qk, self.head_norm, self.config.rms_norm_eps)
        q, k = torch.split(self.ops.rope(normed, step.cos, step.sin), [heads, kv_heads], dim=1)
        step.cache.write(self.layer, step.slots, k, v)
        keys, values = step.cache.keys[self.layer], step.cache.values[self.layer]
        out = self.ops.paged_attention(q, keys, values, step.attention, self.config.head_dim**-0.5)
        return self.ops.linear(out.flatten(1), self.dense)


@dataclass(frozen=True)
class DecoderLayer:
    """Attention, then a dense or expert feed-forward, each on a normed input and added to the residual."""

    input_norm: Tensor  # [M]
    attention: Attention
    post_attention_norm: Tensor  # [M]
    mlp: DenseLayer | MoELayer


@dataclass(frozen=True)
class MTPLayer:
    """Predicts the token after next from a hidden state and the next token."""

    embedding_norm: Tensor  # [M]
    hidden_norm: Tensor  # [M]
    projection: Tensor  # [M, 2M], embedding first
    layer: DecoderLayer
    final_norm: Tensor  # [M]


class DecoderModel:
    """A loaded model. A row's hidden state has the same bits whatever else is in its batch or its chunk.

    `routing_observer`, where set, is told the expert ids of every layer and step.
    """

    def __init__(self, checkpoint: Checkpoint, engine: EngineConfig, progress: Progress | None = None) -> None:
        self.config = checkpoint.config
        self.device = torch.device(engine.device)
        self.dtype = number_type(engine.dtype, self.device)
        self.choice: Choice = choose(self.device)
        self.routing_observer: RoutingObserver | None = None
        loader = _Loader(checkpoint, self.choice.ops, self.device, self.dtype)
        self._embedding = loader.read("model.word_embeddings")
        self._layers, self._mtp = loader.read_layers(progress)
        self._norm = loader.read("model.norm")
        self._head = self._embedding if self.config.tie_word_embeddings else loader.read("lm_head")
        if self.config.norm_head:
            self._head = F.normalize(self._head.float(), dim=0, eps=1e-7).to(self.dtype)
        positions = min(engine.context or self.config.context, self.config.context)
        self._rope = RopeTable.build(self.config, positions, self.dtype, self.device)
        self.weight_bytes = loader.bytes_read

    @classmethod
    def load(
        cls, path: str | Path, config: ModelConfig, engine: EngineConfig, progress: Progress | None = None
    ) -> DecoderModel:
        """Checks the directory, then reads it. `progress` is told layers done and in all.

        Raises CheckpointError.
        """
        with torch.inference_mode():
            return cls(Checkpoint.open(path, config), engine, progress)

    @property
    def ops(self) -> Ops:
        return self.choice.ops

    @property
    def has_mtp(self) -> bool:
        return bool(self._mtp)

    @property
    def cache_layers(self) -> int:
        """Layers that keep keys and values: the decoder's and the MTP layers that were found."""
        return len(self._layers) + len(self._mtp)

    @torch.inference_mode()
    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """Hidden states after the final norm, [T, M]; writes the batch's keys and values."""
        step = self._step(batch, cache)
        x = F.embedding(batch.token_ids, self._embedding)
        for layer in self._layers:
            x = self._run_layer(layer, x, step)
        return self._rms_norm(x, self._norm)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """fp32 logits [R, V] of hidden states [R, M]."""
        return self.ops.linear(hidden, self._head).float()

    @torch.inference_mode()
    def mtp_forward(self, hidden: Tensor, next_token_ids: Tensor, batch: Batch, cache: KVCache) -> Tensor:
        """Hidden states [T, M] whose logits predict the token after next.

        hidden [T, M] is forward's result, next_token_ids [T] the tokens that follow each row; rows keep their
        own positions. Needs has_mtp.
        """
        step = self._step(batch, cache)
        mtp = self._mtp[0]
        embedded = self._rms_norm(F.embedding(next_token_ids, self._embedding), mtp.embedding_norm)
        both = torch.cat((embedded, self._rms_norm(hidden, mtp.hidden_norm)), dim=-1)
        x = self._run_layer(mtp.layer, self.ops.linear(both, mtp.projection), step)
        return self._rms_norm(x, mtp.final_norm)

    def _step(self, batch: Batch, cache: KVCache) -> Step:
        plan = plan_attention(
            batch.spans,
            block_size=cache.block_size,
            heads=self.config.num_attention_heads,
            device=self.device,
        )
        cos, sin = (table.index_select(0, batch.positions) for table in (self._rope.cos, self._rope.sin))
        return Step(cos, sin, batch.slots, plan, cache)

    def _run_layer(self, layer: DecoderLayer, x: Tensor, step: Step) -> Tensor:
        x = x + layer.attention(self._rms_norm(x, layer.input_norm), step)
        normed = self._rms_norm(x, layer.post_attention_norm)
        if isinstance(layer.mlp, DenseLayer):
            return x + layer.mlp(normed)
        routing = layer.mlp.route(normed)
        self._observe(layer.attention.layer, routing)
        return x + layer.mlp.combine(normed, layer.mlp.run(normed, routing), routing)

    def _observe(self, layer: int, routing: Routing) -> None:
        if self.routing_observer is not None:
            self.routing_observer(layer, routing.expert_ids)

    def _rms_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.ops.rms_norm(x, weight, self.config.rms_norm_eps)


class _Loader:
    """Reads a checkpoint's tensors into the layout that the ops take, on the device."""

    def __init__(self, checkpoint: Checkpoint, ops: Ops, device: torch.device, dtype: torch.dtype) -> None:
        self.config = checkpoint.config
        self.bytes_read = 0
        self._checkpoint = checkpoint
        self._ops = ops
        self._device = device
        self._dtype = dtype

    def read(self, name: str) -> Tensor:
        return self._place(self._checkpoint.read(f"{name}.weight"), self._dtype)

    def read_layers(self, progress: Progress | None) -> tuple[tuple[DecoderLayer, ...], tuple[MTPLayer, ...]]:
        decoder = self.config.num_hidden_layers
        total = decoder + self.config.num_nextn_predict_layers
        layers: list[DecoderLayer] = []
        for layer in range(total):
            layers.append(self._decoder_layer(layer))
            if progress is not None:
                progress(layer + 1, total)
        mtp = tuple(self._mtp_layer(layer) for layer in layers[decoder:])
        return tuple(layers[:decoder]), mtp

    def _place(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """A copy of its own: memory mapped from a file has the file's alignment, and is read at first use."""
        placed = torch.empty(tensor.shape, dtype=dtype, device=self._device)
        placed.copy_(tensor)
        self.bytes_read += placed.nbytes
        return placed

    def _decoder_layer(self, layer: int) -> DecoderLayer:
        prefix = f"model.layers.{layer}"
        dense = self.config.is_dense(layer) and layer < self.config.num_hidden_layers
        return DecoderLayer(
            input_norm=self.read(f"{prefix}.input_layernorm"),
            attention=self._attention(layer, f"{prefix}.attention"),
            post_attention_norm=self.read(f"{prefix}.post_attention_layernorm"),
            mlp=DenseLayer(self._ops, self._swiglu(f"{prefix}.mlp")) if dense else self._moe(f"{prefix}.mlp"),
        )

    def _attention(self, layer: int, prefix: str) -> Attention:
        heads, kv_heads = self.config.num_attention_heads, self.config.num_key_value_heads
        query, key = self.read(f"{prefix}.query_layernorm"), self.read(f"{prefix}.key_layernorm")
        return Attention(
            ops=self._ops,
            config=self.config,
            layer=layer,
            query_key_value=self.read(f"{prefix}.query_key_value"),
            head_norm=torch.cat((query.expand(heads, -1), key.expand(kv_heads, -1))),
            dense=self.read(f"{prefix}.dense"),
        )

    def _swiglu(self, prefix: str) -> SwiGLUWeights:
        parts = [self._checkpoint.read(f"{prefix}.{name}_proj.weight") for name in ("gate", "up")]
        return SwiGLUWeights(self._place(torch.cat(parts), self._dtype), self.read(f"{prefix}.down_proj"))

    def _moe(self, prefix: str) -> MoELayer:
        weight = self._place(self._checkpoint.read(f"{prefix}.gate.weight"), torch.float32)
        bias = self._place(self._checkpoint.read(f"{prefix}.gate.expert_bias"), torch.float32)
        gate_up, down = self._experts(f"{prefix}.experts")
        router = Router(self._ops, self.config, weight, bias)
        return MoELayer(self._ops, router, gate_up, down, self._swiglu(f"{prefix}.shared_experts"))

    def _experts(self, prefix: str) -> tuple[Tensor, Tensor]:
        count, hidden = self.config.num_experts, self.config.hidden_size
        inner = self.config.moe_intermediate_size
        gate_up = torch.empty(count, 2 * inner, hidden, dtype=self._dtype, device=self._device)
        down = torch.empty(count, hidden, inner, dtype=self._dtype, device=self._device)
        for expert in range(count):
            gate_up[expert, :inner] = self._checkpoint.read(f"{prefix}.{expert}.gate_proj.weight")
            gate_up[expert, inner:] = self._checkpoint.read(f"{prefix}.{expert}.up_proj.weight")
            down[expert] = self._checkpoint.read(f"{prefix}.{expert}.down_proj.weight")
        self.bytes_read += gate_up.nbytes + down.nbytes
        return gate_up, down

    def _mtp_layer(self, layer: DecoderLayer) -> MTPLayer:
        prefix = f"model.layers.{layer.attention.layer}"
        return MTPLayer(
            embedding_norm=self.read(f"{prefix}.enorm"),
            hidden_norm=self.read(f"{prefix}.hnorm"),
            projection=self.read(f"{prefix}.eh_proj"),
            layer=layer,
            final_norm=self.read(f"{prefix}.final_layernorm"),
        )
