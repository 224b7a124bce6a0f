"""The head in Triton equals the definition: restricted scores, candidates in order, totals."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from kernels import floating
from kernels.formats import Format, Matrix, quantise
from kernels.gpu.head import CHUNK, HeadWorkspace, Restrictions, empty_candidates, head, launch_candidates
from kernels.ops import Candidates, NonFiniteError, Restriction
from tests.kernels.gpu.lane import DEVICE
from tests.kernels.scalars import same_bits


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def restrictions(rows: int, vocabulary: int) -> list[Restriction]:
    """Masks from all to a few ids, seen ids that repeat and run past the size, and temperatures."""
    made = []
    for r in range(rows):
        share, noise = (None, 0.5, 0.01, 1.0)[r % 4], torch.rand(vocabulary, generator=torch.Generator().manual_seed(r))
        seen = torch.randint(0, vocabulary, (60,), generator=torch.Generator().manual_seed(50 + r))
        allowed = None if share is None else noise < share
        penalty, temperature = (1.0, 1.3, 0.8)[r % 3], (0.7, 0.0, 1.5)[r % 3]
        made.append(Restriction(allowed, None if r % 3 == 2 else seen, penalty, temperature))
    return made


def same_candidates(a: Candidates, b: Candidates) -> bool:
    fields = ("all_scores", "ids", "scores", "totals")
    return all(same_bits(getattr(a, name).cpu(), getattr(b, name)) for name in fields)


def found(logits: Tensor, size: int, given: Sequence[Restriction], count: int) -> Candidates:
    """What the kernels make of logits."""
    rows = logits.shape[0]
    into, workspace = empty_candidates(rows, size, count, DEVICE), HeadWorkspace.empty(rows, size, count, DEVICE)
    workspace.sums.fill_(torch.nan)
    launch_candidates(logits.to(DEVICE), Restrictions.of(given, size, DEVICE), into, workspace)
    return into


def check(logits: Tensor, size: int, given: Sequence[Restriction], count: int) -> None:
    assert same_candidates(found(logits, size, given, count), floating.candidates(logits, size, given, count))


@pytest.mark.parametrize("count", [1, 20, 600])
@pytest.mark.parametrize(("vocabulary", "size"), [(832, 801), (5200, 5200)])
@pytest.mark.parametrize("rows", [1, 5])
def test_candidates(rows: int, vocabulary: int, size: int, count: int) -> None:
    check(draw(rows, vocabulary) * 3, size, restrictions(rows, vocabulary), count)


def test_three_rounds_of_the_highest() -> None:
    check(draw(1, 33 * CHUNK), 33 * CHUNK - 5, [Restriction()], 64)


@pytest.mark.parametrize("count", [1, 20, 600])
def test_ties_are_in_id_order(count: int) -> None:
    logits = (torch.arange(3000) % 7 - 3).float()[None]
    check(logits, 2999, [Restriction()], count)
    check(logits, 2999, [Restriction(torch.arange(3000) % 7 < 4, temperature=0.5)], count)


def test_zeros_are_equal_and_keep_their_signs() -> None:
    logits = -draw(1, 100).abs()
    logits[0, [3, 50]], logits[0, [2, 60]] = 0.0, -0.0
    made = found(logits, 100, [Restriction()], 5)
    assert made.ids[0, :4].tolist() == [2, 3, 50, 60]
    assert same_candidates(made, floating.candidates(logits, 100, [Restriction()], 5))


@pytest.mark.parametrize("count", [6, 70])
def test_fewer_allowed_than_asked_for_are_filled_up_with_minus_infinity(count: int) -> None:
    allowed = torch.zeros(2100, dtype=torch.bool)
    allowed[2050] = True
    given = [Restriction(allowed, temperature=1.0)]
    made = found(draw(1, 2100), 2100, given, count)
    assert made.ids[0, :3].tolist() == [2050, 0, 1]
    assert same_candidates(made, floating.candidates(draw(1, 2100), 2100, given, count))


def test_scores_that_are_no_numbers_come_first() -> None:
    logits = draw(1, 100)
    logits[0, [7, 40]], logits[0, 11] = torch.nan, torch.inf
    assert found(logits, 100, [Restriction()], 4).ids[0, :3].tolist() == [7, 40, 11]


def test_what_is_seen_is_changed_once_within_the_size() -> None:
    seen = torch.tensor([5, 90, 5, 99, 7, 5])
    check(draw(1, 100), 95, [Restriction(None, seen, 1.7, 0.9)], 3)
    check(draw(1, 100), 95, [Restriction(torch.arange(100) % 2 == 0, seen, 0.6)], 3)


def test_more_seen_than_one_program_takes() -> None:
    seen = torch.cat((torch.arange(CHUNK + 50), torch.tensor([5, 1000])))
    check(draw(1, 2500), 2500, [Restriction(None, seen, 1.2)], 3)


def test_totals_of_scores_that_a_reciprocal_of_the_temperature_would_change() -> None:
    given = [Restriction(temperature=temperature) for temperature in (1.3, 0.7, 0.6)]
    check(torch.tensor([[0.0, -39 / 64], [-103 / 64, 0.0], [0.0, -30 / 64]]), 2, given, 2)


def test_totals_of_scores_that_all_count() -> None:
    mask = torch.rand(5200, generator=torch.Generator().manual_seed(1)) < 0.7
    given = [Restriction(temperature=0.7), Restriction(mask, temperature=1.3), Restriction()]
    check(draw(3, 5200) * 0.3, 5100, given, 2)


@pytest.mark.parametrize("form", ["w8a8:32", "bf16"])
def test_the_op(form: str) -> None:
    weight, x, given = draw(96, 64), draw(2, 64, seed=1), restrictions(2, 96)
    matrix = Matrix.identity(weight.bfloat16()) if form == "bf16" else quantise(weight, Format.parse(form))[0]
    on_device = Matrix(matrix.format, matrix.rows, matrix.columns, matrix.data.to(DEVICE))
    made = head(x.to(DEVICE), on_device, 90, given, 1000)
    assert same_candidates(made, floating.head(x, matrix, 90, given, 1000))


def test_restrictions_that_are_on_the_device_are_read_there() -> None:
    given = restrictions(2, 832)
    moved = [
        Restriction(
            None if one.allowed is None else one.allowed.to(DEVICE),
            None if one.seen is None else one.seen.to(DEVICE),
            one.penalty,
            one.temperature,
        )
        for one in given
    ]
    logits = draw(2, 832)
    assert same_candidates(found(logits, 801, moved, 20), floating.candidates(logits, 801, given, 20))


def test_a_mask_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="10 ids"):
        Restrictions.of([Restriction(torch.ones(10, dtype=torch.bool))], 801, DEVICE)


def test_a_row_that_is_not_finite_is_refused() -> None:
    x = draw(2, 64)
    x[1, 60] = torch.nan
    matrix, _ = quantise(draw(64, 64), Format.parse("w8a8:32"))
    on_device = Matrix(matrix.format, matrix.rows, matrix.columns, matrix.data.to(DEVICE))
    with pytest.raises(NonFiniteError):
        head(x.to(DEVICE), on_device, 60, [Restriction()] * 2, 5)
