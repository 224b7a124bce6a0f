"""The decoder: embedding, layers of attention and feed-forward, norm, head; and the multi-token layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.ops import (
    AttentionPlan,
    Candidates,
    NonFiniteError,
    Ops,
    Restriction,
    SwiGLUWeights,
    plan_attention,
)
from kernels.registry import Announce, Choice, choose
from runtime.config import EngineConfig, ModelConfig
from runtime.errors import NumericsError
from runtime.hardware import number_type
from runtime.kv_cache import KVCache
from runtime.layers import DecoderLayer, LayerReader, Progress
from runtime.moe import Routing
from runtime.rope import RopeTable
from runtime.sequence import Batch
from runtime.weights import Weights, open_weights

# Told the layer and its expert ids [T, K] at every step.
RoutingObserver = Callable[[int, Tensor], None]


@dataclass(frozen=True)
class Step:
    """What all layers of one forward pass share."""

    cos: Tensor  # [T, R/2]
    sin: Tensor  # [T, R/2]
    slots: Tensor  # [T]
    attention: AttentionPlan
    cache: KVCache


class DecoderModel:
    """A loaded model. A row's hidden state has the same bits whatever else is in its batch or its chunk.

    `routing_observer`, where set, is told the expert ids of every layer and step.
    """

    def __init__(
        self,
        weights: Weights,
        engine: EngineConfig,
        progress: Progress | None = None,
        announce: Announce | None = None,
    ) -> None:
        self.config = weights.config
        self.device = torch.device(engine.device)
        self.dtype = number_type(engine.dtype, self.device)
        self.choice: Choice = choose(self.device, self.dtype, announce=announce, only=engine.kernels)
        self.routing_observer: RoutingObserver | None = None
        reader = LayerReader(weights, self.choice.ops, self.device, self.dtype)
        self._embedding = reader.stored("model.word_embeddings.weight")
        self._layers, self._mtp = reader.layers(progress)
        self._norm = reader.vector("model.norm.weight")
        self._head = reader.matrix("lm_head")
        positions = min(engine.context or self.config.context, self.config.context)
        self._rope = RopeTable.build(self.config, positions, torch.float32, self.device)
        self.weight_bytes = weights.nbytes

    @classmethod
    def load(
        cls,
        path: str | Path,
        config: ModelConfig,
        engine: EngineConfig,
        progress: Progress | None = None,
        announce: Announce | None = None,
    ) -> DecoderModel:
        """Checks the directory, then maps or reads it. `progress` is told layers done and in all.

        Raises CheckpointError.
        """
        with torch.inference_mode():
            return cls(open_weights(path, config), engine, progress, announce)

    @property
    def ops(self) -> Ops:
        return self.choice.ops

    @property
    def backend(self) -> str:
        return self.choice.names["experts"]

    @property
    def has_mtp(self) -> bool:
        return bool(self._mtp)

    @property
    def cache_layers(self) -> int:
        """Layers that keep keys and values: the decoder's and the MTP layers that were found."""
        return len(self._layers) + len(self._mtp)

    @torch.inference_mode()
    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """Hidden states after the final norm, [T, M]; writes the batch's keys and values. Raises NumericsError."""
        step = self._step(batch, cache)
        x = self._embed(batch.token_ids)
        for layer in self._layers:
            x = self._run_layer(layer, x, step)
        return self._rms_norm(x, self._norm)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """fp32 logits [R, V] of hidden states [R, M]."""
        with _Within("the output head"):
            return self.ops.linear(hidden, self._head).float()

    @torch.inference_mode()
    def head(self, hidden: Tensor, size: int, restrictions: Sequence[Restriction], count: int) -> Candidates:
        """The `count` likeliest of the first `size` tokens after each of the hidden states [R, M]."""
        with _Within("the output head"):
            return self.ops.head(hidden, self._head, size, restrictions, count)

    @torch.inference_mode()
    def mtp_forward(self, hidden: Tensor, next_token_ids: Tensor, batch: Batch, cache: KVCache) -> Tensor:
        """Hidden states [T, M] whose logits predict the token after next.

        hidden [T, M] is forward's result, next_token_ids [T] the tokens that follow each row; rows keep their
        own positions. Needs has_mtp.
        """
        step = self._step(batch, cache)
        mtp = self._mtp[0]
        embedded = self._rms_norm(self._embed(next_token_ids), mtp.embedding_norm)
        both = torch.cat((embedded, self._rms_norm(hidden, mtp.hidden_norm)), dim=-1)
        with _Within(f"layer {mtp.layer.index}"):
            projected = self.ops.linear(both, mtp.projection)
        return self._rms_norm(self._run_layer(mtp.layer, projected, step), mtp.final_norm)

    def _embed(self, token_ids: Tensor) -> Tensor:
        return F.embedding(token_ids, self._embedding).to(self.dtype)

    def _step(self, batch: Batch, cache: KVCache) -> Step:
        plan = plan_attention(batch.spans, block_size=cache.block_size, device=self.device)
        cos, sin = (table.index_select(0, batch.positions) for table in (self._rope.cos, self._rope.sin))
        return Step(cos, sin, batch.slots, plan, cache)

    def _run_layer(self, layer: DecoderLayer, x: Tensor, step: Step) -> Tensor:
        with _Within(f"layer {layer.index}"):
            x = self._attend(layer, x, step)
            normed = self._rms_norm(x, layer.post_attention_norm)
            if isinstance(layer.mlp, SwiGLUWeights):
                return self.ops.swiglu(normed, layer.mlp, x)
            routing = layer.mlp.route(normed)
            self._observe(layer.index, routing)
            return layer.mlp.run(normed, routing, x)

    def _attend(self, layer: DecoderLayer, x: Tensor, step: Step) -> Tensor:
        keys, values = step.cache.layers[layer.index]
        q = self.ops.query_key_value(x, layer.attention, step.cos, step.sin, keys, values, step.slots)
        attended = self.ops.paged_attention(q, keys, values, step.attention, self.config.head_dim**-0.5)
        return self.ops.linear(attended, layer.dense, x)

    def _observe(self, layer: int, routing: Routing) -> None:
        if self.routing_observer is not None:
            self.routing_observer(layer, routing.expert_ids)

    def _rms_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.ops.rms_norm(x, weight, self.config.rms_norm_eps)


class _Within:
    """Says where an activation was no number."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, NonFiniteError):
            raise NumericsError(
                f"{self._place} was given an activation that is not finite",
                "The weights are damaged or of another model: verify them, or pack them again.",
            ) from error
