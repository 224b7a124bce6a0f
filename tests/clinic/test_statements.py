"""What a sentence states and what it denies, in English and Chinese; the sentences are data, `negation.toml`."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path

import pytest

from antangel_cli.clinic.checks import red_flags_in_text
from antangel_cli.clinic.checks.statements import stands

SENTENCES = tomllib.loads((Path(__file__).parent / "negation.toml").read_text(encoding="utf-8"))
DENIED = [text for rows in SENTENCES.values() for text in rows["denied"]]
STATED = [text for rows in SENTENCES.values() for text in rows["stated"]]


def fired(text: str) -> list[str]:
    return [hit.rule.id for hit in red_flags_in_text(text)]


@pytest.mark.parametrize("text", DENIED)
def test_denied(text: str) -> None:
    assert "gut_bleeding" not in fired(text)


@pytest.mark.parametrize("text", STATED)
def test_stated(text: str) -> None:
    assert "gut_bleeding" in fired(text)


@pytest.mark.parametrize("piece", ["with or ", "and a b ", "、黑", "no with after ", "无或", " ", "(-", "? no "])
def test_what_surrounds_a_match_is_read_in_linear_time(piece: str) -> None:
    def took(size: int) -> float:
        text = piece * (size // len(piece))
        start = time.process_time()
        for _ in range(20):
            stands(f"no {text}melena{text}", len(text) + 3, len(text) + 9, False)
        return time.process_time() - start

    small = min(took(3_000) for _ in range(3))
    assert min(took(300_000) for _ in range(2)) < max(40 * small, 0.5)
