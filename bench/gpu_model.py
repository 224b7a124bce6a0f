"""A random model on a GPU, or on the CPU beside it: sequences in, greedy tokens out, a batch of all at a time."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kernels.gpu.driver import Driver
from kernels.gpu.launch import INTERPRETING
from kernels.ops import Restriction
from kernels.registry import Announce
from runtime.config import EngineConfig
from runtime.gpu.device_experts import DeviceExperts
from runtime.gpu.few_rows import FewRows
from runtime.gpu.opening import device_policy, open_on_gpu, small_batches
from runtime.gpu.vram import GpuPlan
from runtime.hardware import set_threads, usable_cores
from runtime.kv_cache import BlockAllocator, KVCache
from runtime.measuring.random_pack import DENSE_FORMAT, EXPERTS_FORMAT, RandomModel, true_shape
from runtime.measuring.random_store import RandomWeights
from runtime.model import DecoderModel
from runtime.scheduler import Commit, Scheduler
from runtime.sequence import Sequence as Tokens

# A model that the interpreter runs in seconds.
TINY: dict[str, Any] = json.loads("""{
 "architectures": ["BailingMoeV2ForCausalLM"], "model_type": "bailing_moe", "vocab_size": 256, "hidden_size": 64,
 "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 64,
 "moe_intermediate_size": 64, "moe_shared_expert_intermediate_size": 64, "num_experts": 8, "num_experts_per_tok": 2,
 "num_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1, "routed_scaling_factor": 2.5,
 "norm_topk_prob": true, "partial_rotary_factor": 0.5, "rope_theta": 10000, "max_position_embeddings": 1024,
 "rms_norm_eps": 1e-6, "tie_word_embeddings": false, "pad_token_id": 0, "eos_token_id": 0}""")

DEVICE = torch.device("cpu" if INTERPRETING else "cuda:0")
WHERE: dict[str, Any] = {"device": str(DEVICE), "kernels": "triton interpreted" if INTERPRETING else "triton"}


def random_model(shape: str, layers: int | None) -> RandomModel:
    model = RandomModel(TINY, EXPERTS_FORMAT, DENSE_FORMAT) if shape == "tiny" else true_shape(shape)
    return model.with_layers(layers) if layers else model


@dataclass(frozen=True)
class StepOutcome:
    """A batch: hidden states [T, M], the next token of each sequence, seconds of all layers, and with the head."""

    hidden: Tensor
    tokens: dict[int, int]
    layers_seconds: float
    seconds: float


class Running:
    """A loaded model with its cache. Close it."""

    def __init__(
        self, model: DecoderModel, config: EngineConfig, experts: DeviceExperts | None, plan: GpuPlan | None
    ) -> None:
        self.model, self.config, self.experts, self.plan = model, config, experts, plan
        shape = model.config
        allocator = BlockAllocator(config.kv_blocks or -(-shape.context // config.block_size))
        self._cache = KVCache(
            model.cache_layers,
            allocator.total,
            config.block_size,
            shape.num_key_value_heads,
            shape.head_dim,
            dtype=model.dtype,
            device=model.device,
        )
        batch = config.max_batch_tokens or 512
        self._scheduler = Scheduler(allocator, config.block_size, max_batch_tokens=batch, max_sequences=16)
        self._new: dict[int, int] = {}
        self._next = 0

    @classmethod
    def open(
        cls, weights: RandomWeights, config: EngineConfig, announce: Announce, frames: int | None = None
    ) -> Running:
        """On the GPU, or in the interpreter; with so many frames whatever RAM there is. Raises CapacityError."""
        set_threads(config.threads)
        # What an earlier model has left must be free before memory is divided.
        gc.collect()
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()
        opened = open_on_gpu(weights, config, announce)
        experts = opened.pager
        assert isinstance(experts, DeviceExperts)
        assert isinstance(opened.memory, GpuPlan)
        assert opened.finish is not None
        if frames is not None:
            experts.plan = replace(experts.plan, frames=frames, exclusive=True)
        with torch.inference_mode():
            model = DecoderModel(opened.weights, opened.config, None, announce, experts)
            running = cls(model, opened.config, experts, opened.memory)
            opened.finish(model, _tenths(announce))
        return running

    @classmethod
    def on_cpu(cls, weights: RandomWeights, config: EngineConfig) -> Running:
        """The same model by the CPU's kernels."""
        set_threads(config.threads)
        with torch.inference_mode():
            return cls(DecoderModel(weights, config), config, None, None)

    @property
    def device_experts(self) -> DeviceExperts:
        assert self.experts is not None
        return self.experts

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work

    @property
    def few_rows(self) -> FewRows:
        assert isinstance(self.model.few_rows, FewRows)
        return self.model.few_rows

    def submit(self, prompt: Sequence[int], new: int) -> int:
        """Queues a prompt that so many tokens will follow."""
        number, self._next = self._next, self._next + 1
        self._scheduler.add(Tokens(number, list(prompt), limit=len(prompt) + new))
        self._new[number] = new
        return number

    def step(self) -> StepOutcome:
        """One batch of all that runs."""
        batch = self._scheduler.schedule()
        assert batch is not None
        started = time.perf_counter()
        hidden = self.model.forward(batch, self._cache)
        if hidden.device.type == "cuda":
            torch.cuda.synchronize()
        layers_seconds = time.perf_counter() - started
        spans = batch.sampling_spans()
        tokens: list[int] = []
        if spans:
            rows = hidden.index_select(0, batch.logit_rows.to(hidden.device))
            found = self.model.head(rows, self.model.config.vocab_size, [Restriction()] * len(spans), 1)
            tokens = found.ids[:, 0].tolist()
        seconds = time.perf_counter() - started
        drawn = {span.sequence_id: token for span, token in zip(spans, tokens, strict=True)}
        self._scheduler.commit(batch, [self._taken(number, token) for number, token in drawn.items()])
        return StepOutcome(hidden, drawn, layers_seconds, seconds)

    def change(self, announce: Announce, **options: Any) -> None:
        """Has small batches computed in another way, with the experts where they are."""
        experts = self.device_experts
        self.config = replace(self.config, **options)
        self.model.few_rows = None
        on_gpu = self.model.device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize()
        policy = device_policy(self.config.policy, self.model.config, experts.geometry)
        driver = Driver(self.model.device.index or 0) if on_gpu else None
        with torch.inference_mode():
            self.model.few_rows = small_batches(experts, policy, self.config, self.model, driver, announce)

    def drop(self) -> None:
        """Forgets all sequences."""
        for number in list(self._new):
            if number in self._scheduler:
                self._scheduler.remove(number)

    def close(self) -> None:
        self.model.few_rows = None
        if self.experts is not None:
            self.experts.close()

    def _taken(self, number: int, token: int) -> Commit:
        self._new[number] -= 1
        return Commit(number, finished=True) if self._new[number] == 0 else Commit(number, (token,))


def gpu_config(**options: Any) -> EngineConfig:
    return EngineConfig(**(WHERE | {"readers": usable_cores(), "lookahead": "off"} | options))


def weights_of(model: RandomModel) -> RandomWeights:
    return RandomWeights(model, threads=usable_cores())


def prompt_of(length: int, vocabulary: int, seed: int = 0) -> list[int]:
    return torch.randint(1, vocabulary, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def _tenths(announce: Announce) -> Callable[[int, int], None]:
    """Tells of each tenth of the experts that were read."""
    told = 0

    def progress(done: int, total: int) -> None:
        nonlocal told
        if 10 * done // total > told:
            told = 10 * done // total
            announce(f"{done:,} of {total:,} experts are drawn")

    return progress
