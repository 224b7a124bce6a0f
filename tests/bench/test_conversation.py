from __future__ import annotations

import pytest

from bench.conversation import Resumed, Turn, drawn_tokens, resume_figures


def test_reading_the_file_is_a_part_of_the_wait() -> None:
    alone, kept = Turn((1,), 4.0, 0), Turn((1,), 0.5, 64)
    figures = resume_figures([Resumed(write_s=0.2, read_s=1.5, file_bytes=100, kept=kept, alone=alone)] * 3)
    medians = {name: figure["p50"] for name, figure in figures.items() if name.endswith(("_ms", "_fast"))}
    assert medians == {
        "with_file_ttft_ms": 2000.0,
        "without_ttft_ms": 4000.0,
        "times_as_fast": 2.0,
        "write_ms": 200.0,
        "read_ms": 1500.0,
    }
    assert (figures["file_bytes"], figures["shared_tokens"]) == (100, 64)


@pytest.mark.parametrize("count", [0, 5])
def test_drawn_texts_are_as_long_as_asked_and_repeat_with_their_seed(count: int) -> None:
    assert len(drawn_tokens(count, "a")) == count
    assert drawn_tokens(count, "a") == drawn_tokens(count, "a")
    assert not count or drawn_tokens(count, "a") != drawn_tokens(count, "b")
