"""Where a model's weights come from: a pack that is mapped, or a checkpoint of floats that is read."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.formats import Format, Matrix
from kernels.ops import ExpertPool
from runtime.checkpoint import Checkpoint
from runtime.config import ModelConfig
from runtime.errors import CheckpointError
from runtime.inventory import HEAD, MatrixSpec, dense_matrices, expert_layers, expert_matrices, head_tensor
from runtime.memory import ModelSizes
from runtime.pack import Pack, is_pack
from runtime.pack_layout import ExpertGeometry


class Weights(Protocol):
    """A model's weights by name, in host memory. Unknown names raise KeyError."""

    @property
    def config(self) -> ModelConfig:
        """Of the model; it counts the MTP layers that there are weights for."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        ...

    @property
    def sizes(self) -> ModelSizes:
        """Bytes by part."""
        ...

    @property
    def pageable(self) -> bool:
        """Whether experts can be read one by one, as they are needed."""
        ...

    def release(self, name: str) -> None:
        """Takes a tensor that is mapped out of this process's memory; it comes back when it is touched."""
        ...

    def tensor(self, name: str) -> Tensor:
        """An embedding, norm, router or bias, in its own number type; a router is in bf16 or fp32."""
        ...

    def matrix(self, name: str) -> Matrix:
        """A matrix that is no routed expert's.

        Names: lm_head, and under model.layers.N: attention.query_key_value, attention.dense, eh_proj of MTP layers, and
        gate_up and down of mlp (dense layers) or mlp.shared_experts.
        """
        ...

    def experts(self, layer: int) -> ExpertPool:
        """The routed experts of a layer."""
        ...


def open_weights(path: str | Path, config: ModelConfig) -> Weights:
    """Opens a pack or a checkpoint of floats. Raises CheckpointError."""
    return Pack.open(path, config) if is_pack(path) else FloatWeights(Checkpoint.open(path, config))


class FloatWeights:
    """The weights of a checkpoint as they are: every matrix in its own floats."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.config = checkpoint.config
        self._checkpoint = checkpoint

    @property
    def nbytes(self) -> int:
        return self._checkpoint.nbytes

    @property
    def sizes(self) -> ModelSizes:
        floats = self._matrix_of(expert_matrices(self.config, expert_layers(self.config)[0], 0)[1]).format
        return ModelSizes.of_config(self.config, floats, floats)

    @property
    def pageable(self) -> bool:
        return False

    def release(self, name: str) -> None:
        pass

    def tensor(self, name: str) -> Tensor:
        return stored_type(name, self._checkpoint.read(name))

    def matrix(self, name: str) -> Matrix:
        spec = self._matrices[name]
        if name == HEAD and self.config.norm_head:
            head = self._checkpoint.read(head_tensor(self.config))
            return Matrix.identity(F.normalize(head.float(), dim=0, eps=1e-7).to(head.dtype))
        return Matrix.identity(self._stacked(spec))

    def experts(self, layer: int) -> ExpertPool:
        config = self.config
        gate_up, down = (self._matrix_of(spec).format for spec in expert_matrices(config, layer, 0))
        shape = ExpertGeometry(
            (layer,), config.num_experts, gate_up, down, config.hidden_size, config.moe_intermediate_size
        )
        blobs = torch.zeros(shape.count, shape.blob_bytes, dtype=torch.uint8)
        for expert, blob in enumerate(blobs.unbind()):
            gate_up_spec, down_spec = expert_matrices(config, layer, expert)
            self._copy(gate_up_spec, gate_up, blob)
            self._copy(down_spec, down, blob[shape.down_offset :])
        return shape.pool(blobs)

    def _copy(self, spec: MatrixSpec, format: Format, place: Tensor) -> None:
        matrix = self._matrix_of(spec)
        if matrix.format != format:
            raise CheckpointError(
                f"{spec.name} is {matrix.format} where expert 0 of its layer is {format}",
                "Use a checkpoint whose experts are all of one number type.",
            )
        place[: matrix.nbytes] = matrix.data

    @cached_property
    def _matrices(self) -> dict[str, MatrixSpec]:
        return {spec.name: spec for spec in dense_matrices(self.config)}

    def _matrix_of(self, spec: MatrixSpec) -> Matrix:
        return Matrix.identity(self._stacked(spec))

    def _stacked(self, spec: MatrixSpec) -> Tensor:
        parts = [self._checkpoint.read(part) for part in spec.parts]
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def stored_type(name: str, tensor: Tensor) -> Tensor:
    """A plain tensor as models keep it: a router in fp16 is widened, as routers come in bf16 or fp32 only."""
    is_router = name.endswith(".mlp.gate.weight")
    return tensor.float() if is_router and tensor.dtype == torch.float16 else tensor
