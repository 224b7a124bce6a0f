"""Training resumes where it was, and learns from answers only."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from nano.bpe import train_tokenizer
from nano.encode import Encoder
from nano.train import Feed, Trainer, corpus_texts
from nano.world import load_world


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(corpus_texts(load_world(), 40))


def _trainer(tokenizer: Tokenizer) -> Trainer:
    return Trainer(tokenizer, lr=1e-3, tokens=200, device="cpu")


def test_a_resumed_run_goes_on_as_if_never_stopped(tokenizer: Tokenizer, tmp_path: Path) -> None:
    whole, first, second = (_trainer(tokenizer) for _ in range(3))
    for _ in range(2):
        whole._step(0.9)
    first._step(0.9)
    first.save(tmp_path)
    second.resume(tmp_path)
    second._step(0.9)
    assert second.number == 2
    for a, b in zip(whole.network.parameters(), second.network.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    for x, y in zip(whole.network.experts(), second.network.experts(), strict=True):
        assert torch.equal(x.expert_bias, y.expert_bias)


def test_batches_are_the_same_for_the_same_step(tokenizer: Tokenizer) -> None:
    feed: Feed = _trainer(tokenizer).feed
    a, b = feed.step(5, 0.5), feed.step(5, 0.5)
    assert torch.equal(a.rows, b.rows)
    assert a.kind == b.kind


def test_loss_counts_answers_only(tokenizer: Tokenizer) -> None:
    feed = Feed(load_world(), Encoder(tokenizer), 1500)
    batch = next(b for b in (feed.step(n, 0.5) for n in range(20)) if b.kind == "diagnosis" and len(b.rows) > 1)
    role = tokenizer.token_to_id("<role>")
    for row, weights in zip(batch.rows, batch.weights, strict=True):
        last_header = int((row == role).nonzero().max())
        assert not weights[: last_header + 1].any()
        assert weights[last_header + 1 :].any()
