"""The demonstration model as a differentiable network: BailingMoeV2's mathematics for training (reference, sections 4-8).

Parameters carry the checkpoint's names, except that a layer's experts are stacked: `mlp.experts.gate_up` [E, 2F, M] and
`mlp.experts.down` [E, M, F]. The selection bias is a buffer that moves by load, not by gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

QUERY_RUN = 160
"""Queries computed together in training's attention."""


@dataclass(frozen=True)
class Shape:
    """The network's sizes, in the family's proportions."""

    vocab_size: int = 4096
    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    intermediate_size: int = 512
    moe_intermediate_size: int = 128
    num_experts: int = 16
    num_experts_per_tok: int = 2
    n_group: int = 8
    topk_group: int = 4
    routed_scaling_factor: float = 2.5
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 4096


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last dimension."""
    return functional.rms_norm(x, weight.shape, weight, eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-split RoPE on the first half of each head; x [..., T, H, D]."""
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1)


class Attention(nn.Module):
    """Grouped-query attention with QK-norm; rows of a batch share one prefix computed once."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        width = (s.num_attention_heads + 2 * s.num_key_value_heads) * s.head_dim
        self.query_key_value = nn.Linear(s.hidden_size, width, bias=False)
        self.dense = nn.Linear(s.num_attention_heads * s.head_dim, s.hidden_size, bias=False)
        self.query_layernorm = nn.Parameter(torch.ones(s.head_dim))
        self.key_layernorm = nn.Parameter(torch.ones(s.head_dim))

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, M] -> q [B, H, T, D], k and v [B, H, T, D] (KV heads repeated)."""
        s = self.s
        heads = self.query_key_value(x).unflatten(-1, (-1, s.head_dim))
        q, k, v = heads.split((s.num_attention_heads, s.num_key_value_heads, s.num_key_value_heads), dim=-2)
        q = rotate(rms_norm(q, self.query_layernorm, s.rms_norm_eps), cos, sin)
        k = rotate(rms_norm(k, self.key_layernorm, s.rms_norm_eps), cos, sin)
        repeat = s.num_attention_heads // s.num_key_value_heads
        k, v = k.repeat_interleave(repeat, -2), v.repeat_interleave(repeat, -2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def forward(self, prefix: Tensor, rows: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        """prefix [1, P, M], rows [B, T, M], both normed -> their attention outputs."""
        pq, pk, pv = self.project(prefix, *rope.of(0, prefix.shape[1]))
        q, k, v = self.project(rows, *rope.of(prefix.shape[1], rows.shape[1]))
        b = rows.shape[0]
        k = torch.cat((pk.expand(b, -1, -1, -1), k), dim=2)
        v = torch.cat((pv.expand(b, -1, -1, -1), v), dim=2)
        out = self._causal(q, k, v, rope)
        first = functional.scaled_dot_product_attention(pq, pk, pv, is_causal=True)
        return self.dense(first.transpose(1, 2).flatten(2)), self.dense(out.transpose(1, 2).flatten(2))

    def _causal(self, q: Tensor, k: Tensor, v: Tensor, rope: Rope) -> Tensor:
        """Attention of the last T of P+T places, in runs of queries so that keys to come are not computed."""
        ahead, outputs = k.shape[2] - q.shape[2], []
        for start in range(0, q.shape[2], QUERY_RUN):
            part = q[:, :, start : start + QUERY_RUN]
            seen = ahead + start + part.shape[2]
            mask = rope.mask(part.shape[2], seen)
            outputs.append(
                functional.scaled_dot_product_attention(part, k[:, :, :seen], v[:, :, :seen], attn_mask=mask)
            )
        return torch.cat(outputs, dim=2)


class Rope:
    """Rotary tables and the causal mask, shared by all layers."""

    def __init__(self, s: Shape, device: torch.device) -> None:
        half = s.head_dim // 4
        frequency = s.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(s.max_position_embeddings, dtype=torch.float64)[:, None] * frequency
        self.cos, self.sin = angle.cos().float().to(device), angle.sin().float().to(device)

    def of(self, start: int, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin [T, 1, D/4] for a run of positions."""
        return self.cos[start : start + length, None], self.sin[start : start + length, None]

    def mask(self, queries: int, keys: int) -> Tensor:
        """Causal mask [T, P+T] as additive zeros and minus infinities."""
        full = torch.full((queries, keys), float("-inf"), device=self.cos.device)
        return full.triu(keys - queries + 1)


class DenseMLP(nn.Module):
    """SwiGLU."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [T, M] -> [T, M]."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Experts(nn.Module):
    """The routed experts of a layer, stacked."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        e, m, f = s.num_experts, s.hidden_size, s.moe_intermediate_size
        self.gate_up = nn.Parameter(torch.empty(e, 2 * f, m).normal_(std=m**-0.5))
        self.down = nn.Parameter(torch.empty(e, m, f).normal_(std=0.3 * f**-0.5))

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """x [T, M], chosen and weights [T, K] -> the weighted sum of the chosen experts' outputs [T, M]."""
        order = chosen.flatten().argsort(stable=True)
        token = order // chosen.shape[1]
        counts = torch.bincount(chosen.flatten(), minlength=self.down.shape[0]).tolist()
        outputs = []
        for rows, gate_up, down in zip(x[token].split(counts), self.gate_up.unbind(), self.down.unbind(), strict=True):
            gate, up = functional.linear(rows, gate_up).chunk(2, dim=-1)
            outputs.append(functional.linear(functional.silu(gate) * up, down))
        weighted = torch.cat(outputs) * weights.flatten()[order][:, None]
        return torch.zeros_like(x).index_add(0, token, weighted)


class MoE(nn.Module):
    """Group-limited sigmoid routing with a selection-only bias, plus the shared expert."""

    expert_bias: Tensor

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.gate = nn.Parameter(torch.empty(s.num_experts, s.hidden_size).normal_(std=s.hidden_size**-0.5))
        self.register_buffer("expert_bias", torch.zeros(s.num_experts))
        self.experts = Experts(s)
        self.shared_experts = DenseMLP(s.hidden_size, s.moe_intermediate_size)
        self.load = torch.zeros(s.num_experts)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [T, M] -> expert ids and weights [T, K] (reference, section 7)."""
        s = self.s
        scores = torch.sigmoid(functional.linear(x, self.gate))
        with torch.no_grad():
            choice = (scores + self.expert_bias).unflatten(-1, (s.n_group, -1))
            best = choice.topk(2, dim=-1).values.sum(-1).topk(s.topk_group, dim=-1).indices
            kept = torch.zeros_like(choice[..., 0], dtype=torch.bool).scatter_(-1, best, True)
            masked = choice.masked_fill(~kept[..., None], float("-inf")).flatten(-2)
            chosen = masked.topk(s.num_experts_per_tok, dim=-1).indices
            self.load = torch.bincount(chosen.flatten(), minlength=s.num_experts).float()
        weights = scores.gather(-1, chosen)
        return chosen, s.routed_scaling_factor * weights / (weights.sum(-1, keepdim=True) + 1e-20)

    def forward(self, x: Tensor) -> Tensor:
        """x [T, M] -> [T, M]."""
        chosen, weights = self.route(x)
        out: Tensor = self.experts(x, chosen, weights) + self.shared_experts(x)
        return out

    @torch.no_grad()
    def balance(self, speed: float) -> None:
        """Move the selection bias towards even load, without an auxiliary loss (Wang et al. 2024, arXiv 2408.15664)."""
        self.expert_bias += speed * (self.load.mean() - self.load).sign().to(self.expert_bias.device)


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, s: Shape, dense: bool) -> None:
        super().__init__()
        self.eps = s.rms_norm_eps
        self.input_layernorm = nn.Parameter(torch.ones(s.hidden_size))
        self.attention = Attention(s)
        self.post_attention_layernorm = nn.Parameter(torch.ones(s.hidden_size))
        self.mlp: DenseMLP | MoE = DenseMLP(s.hidden_size, s.intermediate_size) if dense else MoE(s)

    def forward(self, prefix: Tensor, rows: Tensor, real: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        """prefix [1, P, M] and rows [B, T, M] through attention and feed-forward; `real` [B, T] is False for padding."""
        normed = (rms_norm(t, self.input_layernorm, self.eps) for t in (prefix, rows))
        a, b = self.attention(*normed, rope)
        prefix, rows = prefix + a, rows + b
        flat = torch.cat((prefix.flatten(0, 1), rows[real]))
        out = self.mlp(rms_norm(flat, self.post_attention_layernorm, self.eps))
        p = prefix.shape[1]
        delta = torch.zeros_like(rows)
        delta[real] = out[p:]
        return prefix + out[None, :p], rows + delta


class MTPLayer(Layer):
    """The multi-token-prediction layer (reference, section 8): always MoE, embedding first in the concatenation."""

    def __init__(self, s: Shape) -> None:
        super().__init__(s, dense=False)
        self.enorm = nn.Parameter(torch.ones(s.hidden_size))
        self.hnorm = nn.Parameter(torch.ones(s.hidden_size))
        self.eh_proj = nn.Linear(2 * s.hidden_size, s.hidden_size, bias=False)
        self.final_layernorm = nn.Parameter(torch.ones(s.hidden_size))

    def join(self, embedded: Tensor, hidden: Tensor) -> Tensor:
        """The layer's input from the next token's embedding and the main model's normed hidden state."""
        e, h = rms_norm(embedded, self.enorm, self.eps), rms_norm(hidden, self.hnorm, self.eps)
        out: Tensor = self.eh_proj(torch.cat((e, h), dim=-1))
        return out


class Network(nn.Module):
    """The decoder with its MTP layer."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.word_embeddings = nn.Embedding(s.vocab_size, s.hidden_size)
        self.layers = nn.ModuleList(Layer(s, dense=i == 0) for i in range(s.num_hidden_layers))
        self.norm = nn.Parameter(torch.ones(s.hidden_size))
        self.lm_head = nn.Linear(s.hidden_size, s.vocab_size, bias=False)
        self.mtp = MTPLayer(s)
        self._initialise()
        self.rope = Rope(s, self.norm.device)

    def _initialise(self) -> None:
        nn.init.normal_(self.word_embeddings.weight, std=0.5)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                quiet = 0.3 if name.endswith(("dense", "down_proj")) else 1.0
                nn.init.normal_(module.weight, std=quiet * module.in_features**-0.5)
        nn.init.normal_(self.lm_head.weight, std=0.02)

    def forward(self, prefix: Tensor, rows: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids prefix [1, P] and rows [B, T] -> hidden states after the final norm, of each."""
        p, r = self.word_embeddings(prefix), self.word_embeddings(rows)
        for layer in self.layers:
            p, r = layer(p, r, real, self.rope)
        eps = self.s.rms_norm_eps
        return rms_norm(p, self.norm, eps), rms_norm(r, self.norm, eps)

    def draft(self, prefix: Tensor, rows: Tensor, real: Tensor, hidden: tuple[Tensor, Tensor]) -> Tensor:
        """Hidden states [B, T, M] that draft the token after next, from the main model's hidden states."""
        nexts = torch.cat((prefix[:, 1:], rows[:1, :1]), dim=1), torch.cat((rows[:, 1:], rows[:, -1:]), dim=1)
        joined = (self.mtp.join(self.word_embeddings(t), h) for t, h in zip(nexts, hidden, strict=True))
        _, out = self.mtp(*joined, real, self.rope)
        return rms_norm(out, self.mtp.final_layernorm, self.s.rms_norm_eps)

    def experts(self) -> list[MoE]:
        """Every MoE block, the MTP layer's last."""
        return [layer.mlp for layer in (*self.layers, self.mtp) if isinstance(layer.mlp, MoE)]
