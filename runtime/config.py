"""What a checkpoint says about its model, and what a person asks of the engine."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.errors import ConfigError

# Every chat checkpoint of the family ends a turn with one of these, whichever its config names.
LING_STOP_IDS = (156892, 156895)

ARCHITECTURE = "BailingMoeV2ForCausalLM"

# Keys that attention takes at once: blocks of the cache hold a multiple.
LANES = 16

ALIASES = {
    "moe_router_topk_scaling_factor": "routed_scaling_factor",
    "use_expert_bias": "moe_router_enable_expert_bias",
}

# key: (the only value this runtime computes, what it means)
FIXED = {
    "hidden_act": ("silu", "the activation of every expert"),
    "score_function": ("sigmoid", "how the router scores experts"),
    "moe_router_enable_expert_bias": (True, "the router's selection bias"),
    "use_qk_norm": (True, "RMSNorm on query and key heads"),
    "use_rmsnorm": (True, "RMSNorm instead of LayerNorm"),
    "use_bias": (False, "biases in linear layers"),
    "use_qkv_bias": (False, "biases in the query, key and value projection"),
}

REQUIRED_INTS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "moe_intermediate_size",
    "num_experts",
    "num_experts_per_tok",
    "first_k_dense_replace",
    "n_group",
    "topk_group",
    "max_position_embeddings",
)

FROM_THE_CHECKPOINT = "Take config.json unchanged from the original checkpoint."


@dataclass(frozen=True)
class RopeScaling:
    """YaRN: rotary frequencies stretched by `factor` beyond the original context."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0

    def __post_init__(self) -> None:
        _require(self.factor >= 1, f"rope_scaling.factor is {self.factor}, below 1")
        _require(
            self.original_max_position_embeddings > 0,
            "rope_scaling.original_max_position_embeddings is not positive",
        )
        _require(self.beta_fast > self.beta_slow > 0, "rope_scaling needs beta_fast > beta_slow > 0")
        _require(self.attention_factor > 0, "rope_scaling.attention_factor is not positive")


@dataclass(frozen=True)
class ModelConfig:
    """A BailingMoeV2 model, in the words of its config.json.

    Raises ConfigError when values contradict each other or ask for what this runtime does not compute.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    moe_intermediate_size: int
    moe_shared_expert_intermediate_size: int
    num_experts: int
    num_experts_per_tok: int
    num_shared_experts: int
    first_k_dense_replace: int
    n_group: int
    topk_group: int
    routed_scaling_factor: float
    partial_rotary_factor: float
    rope_theta: float
    max_position_embeddings: int
    rope_scaling: RopeScaling | None = None
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    norm_head: bool = False
    eos_token_id: tuple[int, ...] = ()
    pad_token_id: int | None = None
    num_nextn_predict_layers: int = 0
    quant_method: str | None = None

    def __post_init__(self) -> None:
        _check_positive(self)
        _check_attention(self)
        _check_routing(self)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> ModelConfig:
        """Read a parsed config.json. Unknown keys are ignored, missing ones are never guessed."""
        values = {ALIASES.get(key, key): value for key, value in d.items()}
        _check_architecture(values)
        _check_fixed(values)
        ints = {key: _integer(values, key) for key in REQUIRED_INTS}
        rope = _rope_parameters(values)
        head_dim = _head_dim(values, ints)
        shared = _integer(values, "num_shared_experts", 1)
        quantization = values.get("quantization_config")
        return cls(
            **ints,
            head_dim=head_dim,
            num_shared_experts=shared,
            moe_shared_expert_intermediate_size=_integer(
                values, "moe_shared_expert_intermediate_size", ints["moe_intermediate_size"] * shared
            ),
            routed_scaling_factor=_number(values, "routed_scaling_factor"),
            partial_rotary_factor=_partial_rotary_factor(values, rope, head_dim),
            rope_theta=_number({**values, **rope}, "rope_theta"),
            rope_scaling=_rope_scaling(rope, ints["max_position_embeddings"]),
            rms_norm_eps=_number(values, "rms_norm_eps", 1e-6),
            tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
            norm_head=bool(values.get("norm_head", False)),
            eos_token_id=_token_ids(values.get("eos_token_id")),
            pad_token_id=values.get("pad_token_id"),
            num_nextn_predict_layers=_integer(values, "num_nextn_predict_layers", 0),
            quant_method=None if not quantization else str(quantization.get("quant_method", "unknown")),
        )

    @classmethod
    def from_directory(cls, path: str | Path) -> ModelConfig:
        """Read config.json, and the stop ids that generation_config.json adds to it."""
        directory = Path(path)
        config = cls.from_dict(_read_json(directory / "config.json"))
        generation = directory / "generation_config.json"
        if not generation.is_file():
            return config
        extra = _token_ids(_read_json(generation).get("eos_token_id"))
        return replace(config, eos_token_id=tuple(dict.fromkeys(config.eos_token_id + extra)))

    @property
    def context(self) -> int:
        """Usable positions: with YaRN factor x original length, else max_position_embeddings."""
        if self.rope_scaling is None:
            return self.max_position_embeddings
        return int(self.rope_scaling.factor * self.rope_scaling.original_max_position_embeddings)

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end a turn: every declared eos, the pad id, and both of the family's own."""
        family = LING_STOP_IDS if self.vocab_size > max(LING_STOP_IDS) else ()
        pad = () if self.pad_token_id is None else (self.pad_token_id,)
        return tuple(sorted({*self.eos_token_id, *pad, *family}))

    @property
    def rotary_dim(self) -> int:
        """How many leading dimensions of each head are rotated."""
        return int(self.head_dim * self.partial_rotary_factor)

    def is_dense(self, layer: int) -> bool:
        """Whether this decoder layer has one dense feed-forward instead of experts."""
        return layer < self.first_k_dense_replace


@dataclass(frozen=True)
class Share:
    """A part of a whole, above 0 and up to 1: of the memory that is usable, or of all experts."""

    of_whole: float

    def __post_init__(self) -> None:
        _require(0 < self.of_whole <= 1, f"a share is {self.of_whole:.0%}", "Use a share above 0% and up to 100%.")

    def of(self, whole: int) -> int:
        return int(self.of_whole * whole)

    def __str__(self) -> str:
        return f"{100 * self.of_whole:g}%"


Amount = int | Share

LOOKAHEAD = ("auto", "on", "off")


@dataclass(frozen=True)
class EngineConfig:
    """How to run a model: device, number type, and what it may take of the machine.

    None means: taken from the machine and the model. `ram` bounds the process's resident memory and `vram` a card's, in
    bytes or as a share of what is usable; `kv` is for the cache of keys and values; `slots` is how many experts may be
    in memory at once, or which share of all. Without `disk` a model whose experts do not all fit is refused. `policy`
    names what leaves a full cache, `lookahead` whether reads are guessed ahead ("auto": while it pays), `readers` how
    many are in flight, and `profile` the file in which routing totals are kept from run to run. With a GPU, `cpu_share`
    is the part of the missing experts that the host computes, 0 to 1, and without `graphs` a step is launched kernel by
    kernel. Without `share_prefixes` every prompt is computed whole, as measurements of it need. `kernels` are words
    that the name of every op's implementation must have, none for the best.
    """

    device: str = "cpu"
    dtype: str = "auto"
    threads: int | None = None
    block_size: int = 64
    kv_blocks: int | None = None
    max_batch_tokens: int | None = None
    max_sequences: int = 16
    context: int | None = None
    kernels: str = ""
    ram: Amount | None = None
    vram: Amount | None = None
    kv: Amount | None = None
    slots: Amount | None = None
    disk: bool = True
    policy: str | None = None
    lookahead: str = "auto"
    readers: int = 4
    profile: Path | None = None
    cpu_share: float | None = None
    graphs: bool = True
    share_prefixes: bool = True

    def __post_init__(self) -> None:
        _require(
            self.dtype in ("auto", "float32", "bfloat16"),
            f"dtype is {self.dtype!r}",
            "Use auto, float32 or bfloat16.",
        )
        _require(self.lookahead in LOOKAHEAD, f"lookahead is {self.lookahead!r}", f"Use {', '.join(LOOKAHEAD)}.")
        counts = ("threads", "block_size", "kv_blocks", "max_batch_tokens", "max_sequences", "context", "readers")
        for name in (*counts, "ram", "vram", "kv", "slots"):
            value = getattr(self, name)
            _require(
                value is None or isinstance(value, Share) or value > 0, f"{name} is {value}", "Use a number above 0."
            )
        _require(self.cpu_share is None or 0 <= self.cpu_share <= 1, f"cpu_share is {self.cpu_share}", "Use 0 to 1.")
        _require(self.block_size % LANES == 0, f"block_size is {self.block_size}", f"Use a multiple of {LANES}.")


def _require(condition: bool, message: str, remedy: str = FROM_THE_CHECKPOINT) -> None:
    if not condition:
        raise ConfigError(message, remedy)


def _check_positive(config: ModelConfig) -> None:
    may_be_zero = {
        "first_k_dense_replace",
        "num_nextn_predict_layers",
        "pad_token_id",
    }
    for name, value in vars(config).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        allowed = value >= 0 if name in may_be_zero else value > 0
        _require(allowed and math.isfinite(value), f"{name} is {value}")


def _check_attention(config: ModelConfig) -> None:
    _require(
        config.num_attention_heads % config.num_key_value_heads == 0,
        f"num_attention_heads {config.num_attention_heads} is no multiple of "
        f"num_key_value_heads {config.num_key_value_heads}",
    )
    _require(config.partial_rotary_factor <= 1, f"partial_rotary_factor {config.partial_rotary_factor} is above 1")
    width = config.head_dim * config.partial_rotary_factor
    _require(
        width == int(width) and int(width) % 2 == 0 and width > 0,
        f"head_dim {config.head_dim} x partial_rotary_factor {config.partial_rotary_factor} = {width}, "
        "which is no even number of dimensions to rotate",
    )


def _check_routing(config: ModelConfig) -> None:
    groups, kept = config.n_group, config.topk_group
    _require(
        config.num_experts % groups == 0,
        f"num_experts {config.num_experts} does not divide into n_group {groups}",
    )
    per_group = config.num_experts // groups
    _require(kept <= groups, f"topk_group {kept} is more than n_group {groups}")
    _require(
        groups == 1 or per_group >= 2,
        f"groups of {per_group} expert cannot be ranked by their two best",
    )
    _require(
        config.num_experts_per_tok <= kept * per_group,
        f"num_experts_per_tok {config.num_experts_per_tok} is more than the {kept * per_group} experts "
        f"of topk_group {kept} groups",
    )
    _require(
        config.first_k_dense_replace <= config.num_hidden_layers,
        f"first_k_dense_replace {config.first_k_dense_replace} is more than num_hidden_layers "
        f"{config.num_hidden_layers}",
    )


def _check_architecture(values: Mapping[str, Any]) -> None:
    names = values.get("architectures") or [ARCHITECTURE]
    _require(
        ARCHITECTURE in names,
        f"config.json describes {', '.join(map(str, names))}",
        f"This runtime runs {ARCHITECTURE} checkpoints (Ling 2.0 and AntAngelMed).",
    )


def _check_fixed(values: Mapping[str, Any]) -> None:
    for key, (only, meaning) in FIXED.items():
        found = values.get(key, only)
        _require(
            found == only,
            f"config.json sets {key} ({meaning}) to {found!r}; only {only!r} is computed here",
            f"Use a {ARCHITECTURE} checkpoint of the Ling 2.0 family.",
        )


def _integer(values: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = values.get(key)
    if value is None:
        value = default
    _require(value is not None, f"config.json has no {key}")
    _require(isinstance(value, int) and not isinstance(value, bool), f"{key} is {value!r}, no whole number")
    assert isinstance(value, int)
    return value


def _number(values: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = values.get(key)
    if value is None:
        value = default
    _require(value is not None, f"config.json has no {key}")
    _require(isinstance(value, int | float) and not isinstance(value, bool), f"{key} is {value!r}, no number")
    assert isinstance(value, int | float)
    return float(value)


def _token_ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    ids = value if isinstance(value, list) else [value]
    _require(all(isinstance(i, int) for i in ids), f"eos_token_id is {value!r}, no token id or list of them")
    return tuple(ids)


def _head_dim(values: Mapping[str, Any], ints: Mapping[str, int]) -> int:
    heads, hidden = ints["num_attention_heads"], ints["hidden_size"]
    if values.get("head_dim") is None:
        _require(
            heads > 0 and hidden % heads == 0,
            f"config.json has no head_dim, and hidden_size {hidden} does not divide by {heads} heads",
        )
        return hidden // heads
    return _integer(values, "head_dim")


def _rope_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Both spellings, the older rope_scaling and rope_parameters, as one mapping."""
    merged: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        block = values.get(key) or {}
        _require(isinstance(block, Mapping), f"{key} is {block!r}, no mapping")
        merged.update({name: value for name, value in block.items() if value is not None})
    return merged


def _partial_rotary_factor(values: Mapping[str, Any], rope: Mapping[str, Any], head_dim: int) -> float:
    merged = {**values, **rope}
    if merged.get("partial_rotary_factor") is not None:
        return _number(merged, "partial_rotary_factor")
    _require(
        merged.get("rotary_dim") is not None,
        "config.json says neither partial_rotary_factor nor rotary_dim: how much of a head turns?",
    )
    return _integer(merged, "rotary_dim") / head_dim


def _rope_scaling(rope: Mapping[str, Any], max_positions: int) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        _require("factor" not in rope, "rope_scaling has a factor but no type", 'Add "rope_type": "yarn" to it.')
        return None
    _require(
        kind == "yarn",
        f"rope_scaling is of type {kind!r}",
        'Use "yarn", or null for the context the model was trained with.',
    )
    factor = _number(rope, "factor")
    return RopeScaling(
        factor=factor,
        original_max_position_embeddings=_integer(rope, "original_max_position_embeddings", max_positions),
        beta_fast=_number(rope, "beta_fast", 32.0),
        beta_slow=_number(rope, "beta_slow", 1.0),
        attention_factor=_attention_factor(rope, factor),
    )


def _attention_factor(rope: Mapping[str, Any], factor: float) -> float:
    if rope.get("attention_factor") is not None:
        return _number(rope, "attention_factor")

    def grown(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

    both = (rope.get("mscale"), rope.get("mscale_all_dim"))
    if all(both):
        return grown(_number(rope, "mscale")) / grown(_number(rope, "mscale_all_dim"))
    return grown(1.0)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist", "Give the directory of a checkpoint.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", "Download the file again.") from error
    _require(isinstance(content, dict), f"{path} holds no JSON object", "Download the file again.")
    assert isinstance(content, dict)
    return content
