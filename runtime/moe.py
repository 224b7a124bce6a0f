"""The mixture of experts: which experts a token goes to, and what becomes of it there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kernels.ops import ExpertPool, Ops, SwiGLUWeights, Wave
from runtime.config import ModelConfig
from runtime.experts.paging import Pager

# Of the experts that a router would choose too early, the part that is read ahead. More is wrong more often, and a disk
# is idle only while a layer is computed.
GUESSED = 0.5


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
class Paged:
    """That a layer's experts are paged: by whom, and the layer's position among those with experts."""

    pager: Pager
    position: int


@dataclass(frozen=True)
class MoELayer:
    """Routed experts plus the shared expert that every token passes through. Without `paged` all are in memory."""

    ops: Ops
    route: Router
    pool: ExpertPool
    shared: SwiGLUWeights
    paged: Paged | None = None

    def ask(self, routing: Routing) -> Any:
        """Has the experts of a routing fetched, where some may be missing."""
        return self.paged.pager.ask(self.paged.position, routing.expert_ids) if self.paged else None

    def guess(self, x: Tensor) -> None:
        """Has read ahead what this layer's router is surest of for x [T, M], a hidden state of the layer before."""
        if self.paged:
            routing = self.route(x)
            surest = routing.weights.topk(max(1, int(GUESSED * routing.weights.shape[-1])))
            self.paged.pager.guess(self.paged.position, routing.expert_ids.gather(-1, surest.indices))

    def run(self, x: Tensor, routing: Routing, residual: Tensor, visit: Any) -> Tensor:
        """residual [T, M] plus the outputs of x's experts, weighed in ascending id, and of the shared one."""

        def compute(wave: Wave | None) -> Tensor:
            ids, weights = routing.expert_ids, routing.weights
            return self.ops.experts(x, ids, weights, self.pool, self.shared, residual, wave=wave)

        if self.paged is None or visit is None:
            return compute(None)
        return self.paged.pager.compute(visit, compute)
