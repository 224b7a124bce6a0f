"""The mixture of experts: which experts a token goes to, and what becomes of it there."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kernels.ops import Ops
from runtime.config import ModelConfig


@dataclass(frozen=True)
class Routing:
    """The experts chosen for each token and what each one's output counts."""

    expert_ids: Tensor  # [T, K], ascending
    weights: Tensor  # [T, K], fp32


@dataclass(frozen=True)
class SwiGLUWeights:
    """One feed-forward network: gate above up in one matrix, then down."""

    gate_up: Tensor  # [2F, M]
    down: Tensor  # [M, F]


@dataclass(frozen=True)
class Router:
    """Chooses experts in fp32; the bias takes part in the choice only, never in the weights."""

    ops: Ops
    config: ModelConfig
    weight: Tensor  # [E, M], fp32
    bias: Tensor  # [E], fp32

    def __call__(self, x: Tensor) -> Routing:
        ids, weights = self.ops.route(
            x,
            self.weight,
            self.bias,
            experts_per_token=self.config.num_experts_per_tok,
            groups=self.config.n_group,
            groups_kept=self.config.topk_group,
            scale=self.config.routed_scaling_factor,
        )
        return Routing(ids, weights)


@dataclass(frozen=True)
class MoELayer:
    """Routed experts plus the shared expert that every token passes through."""

    ops: Ops
    router: Router
    gate_up: Tensor  # [E, 2F, M]
    down: Tensor  # [E, M, F]
    shared: SwiGLUWeights

    def route(self, x: Tensor) -> Routing:
        """Where each row of x [T, M] goes."""
        return self.router(x)

    def run(self, x: Tensor, routing: Routing) -> Tensor:
        """Outputs of the chosen experts, by position: [T, K, M]."""
        return self.ops.experts(x, routing.expert_ids, self.gate_up, self.down)

    def combine(self, x: Tensor, outputs: Tensor, routing: Routing) -> Tensor:
        """Weighs and adds them in ascending expert id, then adds the shared expert: [T, M]."""
        shared = self.ops.swiglu(x, self.shared.gate_up, self.shared.down)
        return self.ops.combine(outputs, routing.weights, shared)


@dataclass(frozen=True)
class DenseLayer:
    """The feed-forward network of the first layers, which have no experts."""

    ops: Ops
    weights: SwiGLUWeights

    def __call__(self, x: Tensor) -> Tensor:
        return self.ops.swiglu(x, self.weights.gate_up, self.weights.down)
