"""What a model has to do for a step of tokens: weights read, keys and values read, and operations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from runtime.config import ModelConfig
from runtime.inventory import HEAD, dense_matrices, expert_layers
from runtime.memory import ModelSizes


@dataclass(frozen=True)
class Work:
    """One step of `tokens` tokens through all layers but those for multi-token prediction, which decoding leaves out.

    `experts` are the distinct experts of a layer that they are expected to need, with every one as likely as any other.
    Operations count a multiplication and an addition as two.
    """

    tokens: int
    layers: int
    experts: float
    dense_bytes: float
    expert_bytes: float
    kv_bytes: float
    dense_operations: float
    expert_operations: float

    @property
    def weight_bytes(self) -> float:
        return self.dense_bytes + self.expert_bytes

    @property
    def uses(self) -> float:
        """Experts needed, each once in a layer."""
        return self.layers * self.experts


def step_work(sizes: ModelSizes, config: ModelConfig, tokens: int, *, rows: int, cached: int) -> Work:
    """The work of `tokens` tokens, of which `rows` get logits, with `cached` keys and values read in all.

    Attention is counted as `cached` keys for each token of its own sequence: their mean for a prompt from its start.
    """
    decoder = replace(config, num_nextn_predict_layers=0)
    layers = len(expert_layers(decoder))
    experts = distinct_experts(config.num_experts, config.num_experts_per_tok, tokens)
    matrices = {matrix.name: matrix.rows * matrix.columns for matrix in dense_matrices(decoder)}
    head = matrices.pop(HEAD)
    body = sum(matrices.values()) + layers * config.num_experts * config.hidden_size
    attention = 2 * config.num_attention_heads * config.head_dim * config.num_hidden_layers * cached
    expert = 3 * config.hidden_size * config.moe_intermediate_size
    return Work(
        tokens=tokens,
        layers=layers,
        experts=experts,
        dense_bytes=sizes.dense * (body + head) / _dense_elements(config),
        expert_bytes=layers * experts * sizes.experts.content,
        kv_bytes=cached * kv_per_token(sizes, config),
        dense_operations=2 * (tokens * body + rows * head + attention * tokens / max(1, rows)),
        expert_operations=2 * tokens * layers * config.num_experts_per_tok * expert,
    )


def chunks(prompt: int, batch_tokens: int) -> Iterator[tuple[int, int]]:
    """The first token of each batch that a prompt takes, and the one behind its last."""
    for start in range(0, prompt, batch_tokens):
        yield start, min(prompt, start + batch_tokens)


def distinct_experts(experts: int, per_token: int, tokens: int) -> float:
    """How many experts of a layer are expected to have one of the tokens at least."""
    return experts * (1 - (1 - per_token / experts) ** tokens)


def kv_per_token(sizes: ModelSizes, config: ModelConfig) -> float:
    """Bytes of the keys and values of a token, in layers that decoding uses."""
    return sizes.kv_per_token * config.num_hidden_layers / (config.num_hidden_layers + config.num_nextn_predict_layers)


def _dense_elements(config: ModelConfig) -> int:
    routers = len(expert_layers(config)) * config.num_experts * config.hidden_size
    return sum(matrix.rows * matrix.columns for matrix in dense_matrices(config)) + routers
