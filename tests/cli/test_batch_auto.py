"""How many cases are in flight when nobody says it."""

from __future__ import annotations

import pytest

from antangel_cli.batch import AUTO_CONCURRENCY, TOKENS_PER_CASE
from tests.cli.batches import cases, run_batch, use
from tests.cli.scripted import Scripted


class Roomy(Scripted):
    """A model whose KV cache has room for so many tokens, and that runs so many at once."""

    kv_tokens = 0
    sequences = AUTO_CONCURRENCY

    def stats(self) -> dict[str, float | int | None]:
        return super().stats() | {"kv_tokens": self.kv_tokens, "sequences": self.sequences}


@pytest.mark.parametrize(
    ("tokens", "flags", "most"),
    [
        (100 * TOKENS_PER_CASE, [], AUTO_CONCURRENCY),
        (4 * TOKENS_PER_CASE - 1, [], 3),
        (TOKENS_PER_CASE - 1, [], 1),
        (4 * TOKENS_PER_CASE, ["--concurrency", "6"], 6),
        (6 * TOKENS_PER_CASE, ["--samples", "3"], 6),
        (100 * TOKENS_PER_CASE, ["--samples", "3"], AUTO_CONCURRENCY // 3 * 3),
    ],
)
def test_as_many_as_the_kv_cache_has_room_for(
    monkeypatch: pytest.MonkeyPatch, tokens: int, flags: list[str], most: int
) -> None:
    model = Roomy()
    model.kv_tokens = tokens
    use(monkeypatch, model)
    assert run_batch(cases(AUTO_CONCURRENCY + 2), *flags).exit_code == 0
    assert model.most_in_flight == most


def test_as_many_as_the_model_is_worth_running(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Roomy()
    use(monkeypatch, model)
    model.kv_tokens, model.sequences = 100 * TOKENS_PER_CASE, AUTO_CONCURRENCY + 5
    assert run_batch(cases(2 * AUTO_CONCURRENCY)).exit_code == 0
    assert model.most_in_flight == AUTO_CONCURRENCY + 5


def test_a_model_that_does_not_tell_its_room_gets_as_many_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    model = use(monkeypatch, Scripted())
    assert run_batch(cases(AUTO_CONCURRENCY + 2)).exit_code == 0
    assert model.most_in_flight == AUTO_CONCURRENCY
