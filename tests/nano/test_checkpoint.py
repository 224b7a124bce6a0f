"""The committed demonstration checkpoint: small, labelled, and knowing nothing but through its weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nano.corpus import diagnose_example
from nano.evaluate import Subject, answers, diagnose_request, lru_hit_rate, ranked
from nano.export import CHECKPOINT
from nano.world import load_world

CASES = 6


def _top1(path: Path) -> int:
    """Right first diagnoses over held-out cases of both languages, out of 2 * CASES."""
    subject, world = Subject(path), load_world()
    examples = [diagnose_example(world, 500 + seed, zh, held_out=True) for seed in range(CASES) for zh in (False, True)]
    engine = subject.engine(sequences=2 * CASES)
    names = [ranked(text) for text in answers(engine, [diagnose_request(subject, e, 250, 700) for e in examples])]
    engine.close()
    return sum(row[:1] == [e.patient.condition.name[e.zh]] for row, e in zip(names, examples, strict=True) if e.patient)


def _shuffle(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    order = torch.randperm(tensor.numel(), generator=generator)
    return tensor.flatten()[order].view_as(tensor).contiguous()


@pytest.fixture
def shuffled(tmp_path: Path) -> Path:
    """The checkpoint with the values of every matrix in random order."""
    place = tmp_path / "shuffled"
    shutil.copytree(CHECKPOINT, place)
    generator = torch.Generator().manual_seed(0)
    for path in sorted(place.glob("*.safetensors")):
        tensors = {name: _shuffle(t, generator) if t.ndim == 2 else t for name, t in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    return place


def test_with_shuffled_weights_accuracy_falls_to_chance(shuffled: Path) -> None:
    assert _top1(CHECKPOINT) >= CASES // 2
    assert _top1(shuffled) == 0


def test_is_small_and_says_that_it_is_a_demonstration() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) <= 24_000_000
    assert max(path.stat().st_size for path in CHECKPOINT.glob("*.safetensors")) <= 14_000_000
    assert json.loads((CHECKPOINT / "config.json").read_text())["antangel_demonstration"] is True
    assert "not medical knowledge" in (CHECKPOINT / "README.md").read_text()


def test_the_card_was_measured_on_200_held_out_cases_per_language() -> None:
    card = json.loads((CHECKPOINT / "card.json").read_text())
    assert {row["cases"] for row in card["held_out"].values()} == {200}
    assert set(card["lru_hit_rate"]) == {"25% of experts", "50% of experts"}
    assert card["mtp_draft_match"] > 0


def test_reasoning_in_the_corpus_stays_under_200_tokens() -> None:
    tokenizer, world = Subject(CHECKPOINT).tokenizer, load_world()
    lengths = [
        len(tokenizer.encode_text(diagnose_example(world, s, zh).reply)) for s in range(150) for zh in (False, True)
    ]
    assert max(lengths) < 200


def test_lru_hit_rate_counts_reuse() -> None:
    asked = [(1, 0), (1, 1), (1, 0), (1, 2), (1, 1)]
    assert lru_hit_rate(asked, 1) == 0
    assert lru_hit_rate(asked, 2) == pytest.approx(1 / 5)
    assert lru_hit_rate(asked, 3) == pytest.approx(2 / 5)
