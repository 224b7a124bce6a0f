"""Muon for the matrices and Adam for the rest (Jordan et al. 2024; update scale of Liu et al. 2025, arXiv 2502.16982)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(gradient: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, by Newton-Schulz iteration; gradient [..., R, C]."""
    a, b, c = _COEFFICIENTS
    tall = gradient.shape[-2] > gradient.shape[-1]
    x: Tensor = gradient.mT if tall else gradient
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: for matrices [R, C] and stacks of them [E, R, C]."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, decay: float = 0.02) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)

    def _update(self, p: Tensor, group: dict[str, Any]) -> None:
        assert p.grad is not None
        state = self.state[p]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(p)
        state["velocity"].lerp_(p.grad, 1 - group["momentum"])
        wanted = p.grad.lerp(state["velocity"], group["momentum"])
        # gate and up lie stacked in one tensor but are two matrices
        split = wanted.unflatten(-2, (2, -1)) if p.ndim == 3 and p.shape[-2] == p.shape[-1] else wanted
        update = orthogonalise(split).reshape(p.shape)
        scale = 0.2 * max(split.shape[-2:]) ** 0.5
        p.mul_(1 - group["lr"] * group["decay"]).add_(update, alpha=-group["lr"] * scale)
