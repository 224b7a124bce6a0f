"""Train the demonstration model: `python -m nano.train --minutes 80`. Resumes from nano/runs/ when interrupted.

The learning rate follows the share of the budget that has passed, so the run ends when it was told to. The MTP layer
joins for the last part. Loss is on answers only.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from nano.bpe import train_tokenizer
from nano.corpus import Example, ask_example, diagnose_example
from nano.encode import Encoded, Encoder
from nano.network import Network, Shape
from nano.optimizer import Muon
from nano.world import World, load_world

RUNS = Path(__file__).parent / "runs"
MTP_FROM = 0.75
"""The share of the budget after which the MTP layer is trained along."""


@dataclass(frozen=True)
class Batch:
    """One batch: a prefix [1, P] all rows begin with, rows [B, T], loss weights and real places [B, T]."""

    kind: str
    prefix: Tensor
    rows: Tensor
    weights: Tensor
    real: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(self.kind, *(t.to(device) for t in (self.prefix, self.rows, self.weights, self.real)))


class Feed:
    """Batches, deterministic by step: two in English, one in Chinese (whose words are fewer tokens), one kind each."""

    def __init__(self, world: World, encoder: Encoder, tokens: int) -> None:
        self.world, self.encoder, self.tokens = world, encoder, tokens

    def step(self, number: int, progress: float) -> Batch:
        """The batch of one optimiser step."""
        rng = random.Random(number)
        share = 0.1 + 0.5 * min(progress / 0.7, 1.0)
        kind = "ask" if number % 12 < 1 + (number // 12) % 2 else "diagnosis" if rng.random() < share else "reasoning"
        return self._batch(kind, number, number % 3 == 1, rng)

    def _batch(self, kind: str, number: int, zh: bool, rng: random.Random) -> Batch:
        encoded: list[Encoded] = []
        seed = number * 1000
        while sum(len(e.ids) for e in encoded) < self.tokens + 100 * len(encoded):
            seed += 1
            encoded.append(self._encode(kind, seed, zh, rng))
        return pack(kind, encoded)

    def _encode(self, kind: str, seed: int, zh: bool, rng: random.Random) -> Encoded:
        if kind == "ask":
            return self.encoder.reply(ask_example(self.world, seed, zh))
        example = diagnose_example(self.world, seed, zh)
        if kind == "reasoning":
            return self.encoder.reasoning(example, 1.0)
        return self.encoder.diagnosis(example, 1.0, think=rng.random() < 0.9)


def pack(kind: str, encoded: list[Encoded]) -> Batch:
    """Take the common beginning of all rows once, and pad the rest to one length."""
    shortest = min(len(e.ids) for e in encoded)
    common = next(
        (i for i in range(shortest) if len({e.ids[i] for e in encoded}) > 1 or encoded[0].weights[i + 1] > 0),
        shortest - 1,
    )
    rest = [Encoded(e.ids[common:], e.weights[common:]) for e in encoded]
    longest = max(len(e.ids) for e in rest)
    rows = torch.zeros(len(rest), longest, dtype=torch.int64)
    weights = torch.zeros(len(rest), longest)
    for i, e in enumerate(rest):
        rows[i, : len(e.ids)] = torch.tensor(e.ids)
        weights[i, : len(e.ids)] = torch.tensor(e.weights)
    lengths = torch.tensor([len(e.ids) for e in rest])
    return Batch(
        kind,
        torch.tensor(encoded[0].ids[:common])[None],
        rows,
        weights,
        torch.arange(longest) < lengths[:, None],
    )


def losses(network: Network, batch: Batch, mtp: bool) -> tuple[Tensor, float]:
    """The weighted loss with the MTP term, and the same without it."""
    hidden = network(batch.prefix, batch.rows, batch.real)
    loss = _loss(network, hidden[1], batch, 1)
    total = loss
    if mtp:
        total = loss + 0.3 * _loss(network, network.draft(batch.prefix, batch.rows, batch.real, hidden), batch, 2)
    return total, loss.item()


def _loss(network: Network, hidden: Tensor, batch: Batch, ahead: int) -> Tensor:
    """Cross-entropy of the token `ahead` places on, over the places that count."""
    weights = batch.weights[:, ahead:]
    counted = weights > 0
    logits = network.lm_head(hidden[:, :-ahead][counted])
    each = functional.cross_entropy(logits, batch.rows[:, ahead:][counted], reduction="none")
    return (each * weights[counted]).sum() / weights[counted].sum()


class Trainer:
    """The run: network, optimisers, and what is needed to go on after an interruption."""

    def __init__(self, tokenizer: Tokenizer, lr: float, tokens: int, device: str) -> None:
        torch.manual_seed(0)
        self.device = torch.device(device)
        self.network = Network(Shape()).to(self.device)
        self.network.rope = type(self.network.rope)(self.network.s, self.device)
        self.feed = Feed(load_world(), Encoder(tokenizer), tokens)
        self.lr, self.number, self.elapsed, self.seen = lr, 0, 0.0, 0
        self.recent: dict[str, float] = {}
        matrices = [p for n, p in self.network.named_parameters() if _is_matrix(n, p)]
        others = [p for n, p in self.network.named_parameters() if not _is_matrix(n, p)]
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=lr), torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
        ]  # fmt: skip

    def run(self, minutes: float, folder: Path) -> None:
        """Train until the budget has passed, logging each tenth step and saving every five minutes."""
        saved = time.monotonic()
        while self.elapsed < minutes * 60:
            start = time.monotonic()
            row = self._step(min(self.elapsed / (minutes * 60), 1.0))
            self.elapsed += time.monotonic() - start
            if self.number % 10 == 0:
                self._log(folder, row)
            if time.monotonic() - saved > 300:
                self.save(folder)
                saved = time.monotonic()
        self.save(folder)

    def _step(self, progress: float) -> dict[str, float]:
        rate = self.lr * min(1.0, (self.number + 1) / 60) * max(1.0 - progress, 0.01)
        batch = self.feed.step(self.number, progress).to(self.device)
        total, plain = losses(self.network, batch, progress >= MTP_FROM)
        total.backward()
        self.seen += int(batch.real.sum())
        self.recent[batch.kind] = 0.9 * self.recent.get(batch.kind, plain) + 0.1 * plain
        row: dict[str, float] = {
            "progress": round(progress, 4),
            **{k: round(v, 4) for k, v in self.recent.items()},
        }
        for moe in self.network.experts():
            moe.balance(0.015 * (1 - progress))
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.number += 1
        return row

    def _log(self, folder: Path, row: dict[str, float]) -> None:
        loads = [moe.load / moe.load.sum() for moe in self.network.experts()[:-1]]
        row |= {"step": self.number, "seconds": round(self.elapsed), "tokens": self.seen}
        row |= {
            "tok_s": round(self.seen / self.elapsed),
            "busiest": round(max(x.max().item() for x in loads), 3),
        }
        with (folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")

    def save(self, folder: Path) -> None:
        """Write the whole state aside, then put it in place."""
        state = {
            "network": self.network.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers],
            "number": self.number, "elapsed": self.elapsed, "seen": self.seen, "shape": asdict(self.network.s),
        }  # fmt: skip
        torch.save(state, folder / "state.tmp")
        (folder / "state.tmp").replace(folder / "state.pt")

    def resume(self, folder: Path) -> None:
        """Go on from a saved state."""
        state = torch.load(folder / "state.pt", map_location=self.device)
        self.network.load_state_dict(state["network"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.number, self.elapsed, self.seen = state["number"], state["elapsed"], state["seen"]


def _is_matrix(name: str, p: Tensor) -> bool:
    return p.ndim >= 2 and not name.startswith(("word_embeddings", "lm_head")) and not name.endswith("mlp.gate")


def corpus_texts(world: World, count: int = 3000) -> Iterator[str]:
    """Text to train the tokenizer on; the fixed instructions stand in it once, not in every case."""
    for seed in range(count):
        for zh in (False, True):
            example: Example = diagnose_example(world, seed, zh)
            yield from (
                example.user[example.user.index("<case") :] if seed else example.user,
                example.reply,
                example.answer,
            )
            question = ask_example(world, seed, zh)
            yield from (question.user, question.reply)


def main() -> None:
    """Train, or go on training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=80)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--tokens", type=int, default=1400, help="tokens of a step")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--folder", type=Path, default=RUNS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / "tokenizer.json"
    if not path.exists():
        train_tokenizer(corpus_texts(load_world())).save(str(path))
    trainer = Trainer(Tokenizer.from_file(str(path)), options.lr, options.tokens, options.device)
    if (options.folder / "state.pt").exists():
        trainer.resume(options.folder)
    trainer.run(options.minutes, options.folder)


if __name__ == "__main__":
    main()
