"""The decoder: embedding, layers of attention and feed-forward, norm, head; and the multi-token layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

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
from runtime.experts.paging import Pager
from runtime.hardware import number_type
from runtime.inventory import EMBEDDING
from runtime.kv_cache import KVCache
from runtime.layers import DecoderLayer, LayerReader, Progress
from runtime.moe import MoELayer, Routing
from runtime.rope import RopeTable
from runtime.sequence import Batch
from runtime.weights import Weights, open_weights

# Told the layer and its expert ids [T, K] at every step.
RoutingObserver = Callable[[int, Tensor], None]
# Given them, names others [T, K] to be used instead, ascending and distinct in a row.
RoutingSource = Callable[[int, Tensor], Tensor]


class FewRows(Protocol):
    """What computes small batches on a device as a whole."""

    most: int

    def run(
        self,
        batch: Batch,
        embedded: Tensor,
        cache: KVCache,
        source: RoutingSource | None,
        observer: RoutingObserver | None,
    ) -> Tensor:
        """Hidden states fp32 [T, M] after the final norm, of embedded tokens [T, M]. Raises NumericsError."""
        ...


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

    `routing_observer`, where set, is told the expert ids of every layer and step; `routing_source` replaces them, for
    measuring. With a `pager` experts are paged; else all are in memory, or mapped.
    """

    def __init__(
        self,
        weights: Weights,
        engine: EngineConfig,
        progress: Progress | None = None,
        announce: Announce | None = None,
        pager: Pager | None = None,
    ) -> None:
        self.config = weights.config
        self.device = torch.device(engine.device)
        self.dtype = number_type(engine.dtype, self.device)
        self.choice: Choice = choose(self.device, self.dtype, announce=announce, only=engine.kernels)
        self.routing_observer: RoutingObserver | None = None
        self.routing_source: RoutingSource | None = None
        self._pager = pager
        self._weights = weights
        reader = LayerReader(weights, self.choice.ops, self.device, self.dtype, pager)
        self.few_rows: FewRows | None = None
        # A token reads one row of it, which the host looks up.
        self._embedding = weights.tensor(EMBEDDING)
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
        """Checks the directory, then maps or reads it. `progress` is told bytes done and in all.

        Raises CheckpointError.
        """
        with torch.inference_mode():
            return cls(open_weights(path, config), engine, progress, announce)

    @property
    def layers(self) -> tuple[DecoderLayer, ...]:
        """Without those that draft."""
        return self._layers

    @property
    def norm(self) -> Tensor:
        """Of the last hidden states, [M]."""
        return self._norm

    @property
    def rope(self) -> RopeTable:
        return self._rope

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
        if self.few_rows is not None and len(batch.token_ids) <= self.few_rows.most:
            return self.few_rows.run(
                batch, self._embed(batch.token_ids), cache, self.routing_source, self.routing_observer
            )
        x = self._embed(batch.token_ids).to(self.device)
        step = self._step(batch.to(self.device), cache)
        if self._pager is not None:
            self._pager.begin_step(len(x))
        for layer, following in zip_longest(self._layers, self._layers[1:]):
            x = self._run_layer(layer, x, step, following)
        if self._pager is not None:
            self._pager.end_step()
        return self._rms_norm(x, self._norm)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """fp32 logits [R, V] of hidden states [R, M]."""
        with _Within("the output head"):
            return self.ops.linear(hidden, self._head).float()

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
        step = self._step(batch.to(self.device), cache)
        mtp = self._mtp[0]
        embedded = self._rms_norm(self._embed(next_token_ids).to(self.device), mtp.embedding_norm)
        both = torch.cat((embedded, self._rms_norm(hidden, mtp.hidden_norm)), dim=-1)
        with _Within(f"layer {mtp.layer.index}"):
            projected = self.ops.linear(both, mtp.projection)
        return self._rms_norm(self._run_layer(mtp.layer, projected, step), mtp.final_norm)

    def _embed(self, token_ids: Tensor) -> Tensor:
        """Of tokens [T]: [T, M] in host memory."""
        embedded = F.embedding(token_ids.cpu(), self._embedding).to(self.dtype)
        if self._pager is not None:
            # Its pages would count towards the memory of the process, more with every token that is new.
            self._weights.release(EMBEDDING)
        return embedded

    def _step(self, batch: Batch, cache: KVCache) -> Step:
        plan = plan_attention(batch.spans, block_size=cache.block_size, device=self.device)
        cos, sin = (table.index_select(0, batch.positions) for table in (self._rope.cos, self._rope.sin))
        return Step(cos, sin, batch.slots, plan, cache)

    def _run_layer(self, layer: DecoderLayer, x: Tensor, step: Step, following: DecoderLayer | None = None) -> Tensor:
        with _Within(f"layer {layer.index}"):
            x = self._attend(layer, x, step)
            normed = self._rms_norm(x, layer.post_attention_norm)
            if isinstance(layer.mlp, SwiGLUWeights):
                return self.ops.swiglu(normed, layer.mlp, x)
            routing = self._route(layer, layer.mlp, normed)
            visit = layer.mlp.ask(routing)
            self._guess(following, x)
            return layer.mlp.run(normed, routing, x, visit)

    def _attend(self, layer: DecoderLayer, x: Tensor, step: Step) -> Tensor:
        keys, values = step.cache.layers[layer.index]
        q = self.ops.query_key_value(x, layer.attention, step.cos, step.sin, keys, values, step.slots)
        attended = self.ops.paged_attention(q, keys, values, step.attention, self.config.head_dim**-0.5)
        return self.ops.linear(attended, layer.dense, x)

    def _route(self, layer: DecoderLayer, mlp: MoELayer, normed: Tensor) -> Routing:
        routing = mlp.route(normed)
        if self.routing_source is not None:
            routing = replace(routing, expert_ids=self.routing_source(layer.index, routing.expert_ids))
        if self.routing_observer is not None:
            self.routing_observer(layer.index, routing.expert_ids)
        return routing

    def _guess(self, following: DecoderLayer | None, x: Tensor) -> None:
        """What the next layer will need, by its router on the present hidden state x [T, M], is read ahead."""
        if self._pager is None or following is None or not self._pager.guesses:
            return
        if isinstance(following.mlp, MoELayer):
            following.mlp.guess(self._rms_norm(x, following.post_attention_norm))

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
