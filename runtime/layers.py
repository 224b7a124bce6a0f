"""The layers of a decoder, read into what the ops take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels.formats import Matrix
from kernels.ops import AttentionWeights, ExpertPool, Ops, SwiGLUWeights
from runtime.experts.paging import Pager
from runtime.inventory import expert_layers
from runtime.moe import MoELayer, Paged, Router
from runtime.weights import Weights

# Told how many bytes are loaded, and of how many.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DecoderLayer:
    """Attention, then a dense or expert feed-forward, each on a normed input and added to the residual."""

    index: int
    attention: AttentionWeights
    dense: Matrix  # [M, H D]
    post_attention_norm: Tensor  # [M]
    mlp: SwiGLUWeights | MoELayer


@dataclass(frozen=True)
class MTPLayer:
    """Predicts the token after next from a hidden state and the next token."""

    embedding_norm: Tensor  # [M]
    hidden_norm: Tensor  # [M]
    projection: Matrix  # [M, 2M], embedding first
    layer: DecoderLayer
    final_norm: Tensor  # [M]


class LayerReader:
    """Takes weights by name and puts them on the device; what is mapped into host memory stays where it is."""

    def __init__(
        self, weights: Weights, ops: Ops, device: torch.device, dtype: torch.dtype, pager: Pager | None
    ) -> None:
        self._weights = weights
        self._config = weights.config
        self._ops = ops
        self._device = device
        self._dtype = dtype
        self._pager = pager

    def layers(self, progress: Progress | None) -> tuple[tuple[DecoderLayer, ...], tuple[MTPLayer, ...]]:
        """All of them, those that draft last. Of the bytes that `progress` is told each counts for an even share."""
        decoder = self._config.num_hidden_layers
        total = decoder + self._config.num_nextn_predict_layers
        sizes = self._weights.sizes
        size = sizes.dense + (0 if self._pager else sizes.experts.nbytes)
        layers: list[DecoderLayer] = []
        for index in range(total):
            layers.append(self._decoder_layer(index))
            if progress is not None:
                progress(size * (index + 1) // total, size)
        return tuple(layers[:decoder]), tuple(self._mtp_layer(layer) for layer in layers[decoder:])

    def stored(self, name: str) -> Tensor:
        """A tensor in its own number type."""
        return self._weights.tensor(name).to(self._device)

    def vector(self, name: str) -> Tensor:
        """A norm's weights, in the type of the residual stream."""
        return self.stored(name).to(self._dtype)

    def matrix(self, name: str) -> Matrix:
        matrix = self._weights.matrix(name)
        return matrix if self._device.type == "cpu" else replace(matrix, data=matrix.data.to(self._device))

    def _decoder_layer(self, index: int) -> DecoderLayer:
        prefix = f"model.layers.{index}"
        dense = self._config.is_dense(index)
        return DecoderLayer(
            index=index,
            attention=self._attention(prefix),
            dense=self.matrix(f"{prefix}.attention.dense"),
            post_attention_norm=self.vector(f"{prefix}.post_attention_layernorm.weight"),
            mlp=self._swiglu(f"{prefix}.mlp") if dense else self._moe(index, f"{prefix}.mlp"),
        )

    def _attention(self, prefix: str) -> AttentionWeights:
        heads, kv_heads = self._config.num_attention_heads, self._config.num_key_value_heads
        query = self.vector(f"{prefix}.attention.query_layernorm.weight")
        key = self.vector(f"{prefix}.attention.key_layernorm.weight")
        return AttentionWeights(
            input_norm=self.vector(f"{prefix}.input_layernorm.weight"),
            query_key_value=self.matrix(f"{prefix}.attention.query_key_value"),
            head_norm=torch.cat((query.expand(heads, -1), key.expand(kv_heads, -1))),
            eps=self._config.rms_norm_eps,
            heads=heads,
            kv_heads=kv_heads,
        )

    def _swiglu(self, prefix: str) -> SwiGLUWeights:
        return SwiGLUWeights(self.matrix(f"{prefix}.gate_up"), self.matrix(f"{prefix}.down"))

    def _moe(self, index: int, prefix: str) -> MoELayer:
        router = Router(
            self._ops,
            self._config,
            self.stored(f"{prefix}.gate.weight"),
            self.stored(f"{prefix}.gate.expert_bias").float(),
        )
        paged = Paged(self._pager, expert_layers(self._config).index(index)) if self._pager else None
        shared = self._swiglu(f"{prefix}.shared_experts")
        return MoELayer(self._ops, router, self._pool(index, paged), shared, paged)

    def _pool(self, index: int, paged: Paged | None) -> ExpertPool:
        if paged is not None:
            return paged.pager.pool(paged.position)
        pool = self._weights.experts(index)
        if self._device.type == "cpu":
            return pool
        blobs = tuple(blob.to(self._device) for blob in pool.blobs)
        return replace(pool, blobs=blobs, addresses=torch.tensor([blob.data_ptr() for blob in blobs]))

    def _mtp_layer(self, layer: DecoderLayer) -> MTPLayer:
        prefix = f"model.layers.{layer.index}"
        return MTPLayer(
            embedding_norm=self.vector(f"{prefix}.enorm.weight"),
            hidden_norm=self.vector(f"{prefix}.hnorm.weight"),
            projection=self.matrix(f"{prefix}.eh_proj"),
            layer=layer,
            final_norm=self.vector(f"{prefix}.final_layernorm.weight"),
        )
