"""The mixture of experts: which experts a token goes to, and what becomes of it there."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kernels.ops import ExpertPool, Ops, SwiGLUWeights
from runtime.config import ModelConfig


@dataclass(frozen=True)
class Routing:
    """The experts chosen for each token and what each one's output counts."""

    expert_ids: Tensor  # [T, K], ascending
    weights: Tensor  # [T, K], fp32


@dataclass(frozen=True)
class Router:
    """Chooses experts in fp32; the bias takes part in the choice only, never in the weights."""

    ops: Ops
    config: ModelConfig
    weight: Tensor  # [E, M], bf16 or fp32
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
    route: Router
    pool: ExpertPool
    shared: SwiGLUWeights

    def run(self, x: Tensor, routing: Routing, residual: Tensor) -> Tensor:
        """residual [T, M] plus the outputs of x's experts, weighed in ascending id, and of the shared one."""
        return self.ops.experts(x, routing.expert_ids, routing.weights, self.pool, self.shared, residual)
