"""Readers: what is needed now comes before what is guessed, and whoever waits is told, whatever goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from runtime.errors import CheckpointError, ExpertReadError
from runtime.experts import transfer as transfer_module
from runtime.experts.transfer import Arrival, Cause, ExpertTransfer, Read
from tests.runtime.experts.gate import SOON, Gate

DEMAND, LOOKAHEAD, PREWARM = Cause.DEMAND, Cause.LOOKAHEAD, Cause.PREWARM


@contextmanager
def reading(read: Read, readers: int = 1) -> Iterator[ExpertTransfer]:
    transfer = ExpertTransfer(read, readers)
    try:
        yield transfer
    finally:
        transfer.close()


def all_of(transfer: ExpertTransfer) -> list[Arrival]:
    arrived: list[Arrival] = []
    while transfer.pending:
        arrived += transfer.wait()
    return arrived


def problem_of_waiting(transfer: ExpertTransfer) -> BaseException:
    """What is raised to who waits; a wait without end fails the test instead of holding it up."""
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            transfer.wait()
        except Exception as error:
            raised.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    waiting.join(SOON)
    assert raised, "it waits without end"
    return raised[0]


def behind_a_read(gate: Gate, transfer: ExpertTransfer) -> None:
    """The only reader is busy, so that what is asked for now queues."""
    gate.shut(99)
    transfer.request(99, 9, DEMAND)
    gate.until_begun(99)


def test_an_expert_is_read_into_its_slot_and_collected_once() -> None:
    gate = Gate()
    with reading(gate.read) as transfer:
        transfer.request(5, 2, LOOKAHEAD)
        assert transfer.pending == 1
        assert all_of(transfer) == [Arrival(5, LOOKAHEAD, None)]
        assert gate.began == [(5, 2)]
        assert transfer.collect() == []
        transfer.request(5, 3, DEMAND)
        assert all_of(transfer) == [Arrival(5, DEMAND, None)]


def test_what_is_needed_now_comes_first_then_guesses_then_warming() -> None:
    gate = Gate()
    with reading(gate.read) as transfer:
        behind_a_read(gate, transfer)
        for expert, cause in ((1, PREWARM), (2, LOOKAHEAD), (3, DEMAND), (4, LOOKAHEAD), (5, DEMAND)):
            transfer.request(expert, expert, cause)
        gate.open(99)
        assert [arrival.expert for arrival in all_of(transfer)] == [99, 3, 5, 2, 4, 1]


def test_a_read_that_takes_long_holds_up_no_other() -> None:
    gate = Gate()
    gate.shut(1)
    with reading(gate.read, readers=2) as transfer:
        transfer.request(1, 0, DEMAND)
        gate.until_begun(1)
        for expert in (2, 3):
            transfer.request(expert, expert, DEMAND)
        arrived: list[Arrival] = []
        while len(arrived) < 2:
            arrived += transfer.wait()
        assert [arrival.expert for arrival in arrived] == [2, 3]
        assert transfer.collect() == []
        assert transfer.pending == 1
        gate.open(1)
        assert all_of(transfer) == [Arrival(1, DEMAND, None)]


def test_as_many_are_in_flight_as_there_are_readers() -> None:
    gate = Gate()
    gate.shut(*range(5))
    with reading(gate.read, readers=3) as transfer:
        for expert in range(5):
            transfer.request(expert, expert, DEMAND)
        gate.until_begun(0, 1, 2)
        assert len(gate.began) == 3
        gate.open(*range(5))
        assert len(all_of(transfer)) == 5


def test_a_guess_that_is_needed_overtakes_other_guesses_and_stays_a_guess() -> None:
    gate = Gate()
    with reading(gate.read) as transfer:
        behind_a_read(gate, transfer)
        for expert, cause in ((1, PREWARM), (2, LOOKAHEAD), (3, LOOKAHEAD), (4, DEMAND)):
            transfer.request(expert, expert, cause)
        transfer.hasten(3)
        transfer.hasten(1)
        transfer.hasten(3)
        transfer.hasten(99)
        gate.open(99)
        arrived = all_of(transfer)
        assert [arrival.expert for arrival in arrived] == [99, 4, 3, 1, 2]
        assert [arrival.cause for arrival in arrived] == [DEMAND, DEMAND, LOOKAHEAD, PREWARM, LOOKAHEAD]


def test_what_nobody_needs_is_taken_back_the_least_urgent_first() -> None:
    gate = Gate()
    with reading(gate.read) as transfer:
        behind_a_read(gate, transfer)
        for expert, cause in ((1, LOOKAHEAD), (2, PREWARM), (3, PREWARM), (4, DEMAND), (5, LOOKAHEAD)):
            transfer.request(expert, expert, cause)
        transfer.hasten(1)
        assert [transfer.take_back() for _ in range(4)] == [3, 2, 5, None]
        assert transfer.pending == 3
        transfer.request(5, 6, DEMAND)
        gate.open(99)
        assert [arrival.expert for arrival in all_of(transfer)] == [99, 4, 1, 5]
        assert (5, 6) in gate.began
        assert (5, 5) not in gate.began


def test_what_is_being_read_is_not_taken_back() -> None:
    gate = Gate()
    gate.shut(1)
    with reading(gate.read) as transfer:
        transfer.request(1, 0, LOOKAHEAD)
        gate.until_begun(1)
        assert transfer.take_back() is None
        gate.open(1)
        assert all_of(transfer) == [Arrival(1, LOOKAHEAD, None)]


def failing(error: BaseException) -> Read:
    """Fails for expert 1."""

    def read(expert: int, slot: int) -> None:
        if expert == 1:
            raise error

    return read


@pytest.mark.parametrize(
    "error", [ValueError("odd"), MemoryError(), SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr
)
def test_whatever_a_reader_meets_is_told_and_it_goes_on(error: BaseException) -> None:
    with reading(failing(error)) as transfer:
        for expert in (1, 2):
            transfer.request(expert, expert, DEMAND)
        first, second = all_of(transfer)
        assert first.expert == 1
        assert isinstance(first.error, ExpertReadError)
        assert repr(error) in first.error.message
        assert first.error.remedy
        assert second == Arrival(2, DEMAND, None)


def test_an_error_of_ours_is_passed_on_as_it_is() -> None:
    error = CheckpointError("layer 2, expert 1 is damaged", "Pack again.")
    with reading(failing(error)) as transfer:
        transfer.request(1, 0, DEMAND)
        [arrival] = all_of(transfer)
        assert arrival.error is error


def test_with_no_thread_left_there_is_an_error_and_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExpertTransfer, "_next", lambda self: None)
    with reading(Gate().read, readers=2) as transfer:
        for thread in transfer._threads:
            thread.join(SOON)
        transfer.request(1, 0, DEMAND)
        error = problem_of_waiting(transfer)
        assert isinstance(error, ExpertReadError)
        assert "every thread that reads experts has ended" in error.message


def test_threads_that_end_while_someone_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is left to say so: the one who waits has to look."""
    monkeypatch.setattr(transfer_module, "LOOK_EVERY", 0.01)
    gate = Gate()
    gate.shut(1)

    def die(self: ExpertTransfer) -> None:
        gate.read(1, 0)

    monkeypatch.setattr(ExpertTransfer, "_serve", die)
    with reading(gate.read, readers=2) as transfer:
        transfer.request(1, 0, DEMAND)
        threading.Timer(0.03, gate.open, (1,)).start()
        assert isinstance(problem_of_waiting(transfer), ExpertReadError)


def test_waiting_for_nothing_is_a_mistake_not_a_hang() -> None:
    with reading(Gate().read) as transfer:
        assert str(problem_of_waiting(transfer)) == "there is no read to wait for"


def test_closing_ends_what_is_in_flight_and_leaves_the_rest() -> None:
    gate = Gate()
    gate.shut(1)
    transfer = ExpertTransfer(gate.read, 1)
    transfer.request(1, 0, DEMAND)
    transfer.request(2, 1, DEMAND)
    gate.until_begun(1)
    closing = threading.Thread(target=transfer.close)
    closing.start()
    closing.join(0.02)
    assert closing.is_alive(), "a slot may not be given away while it is written to"
    gate.open(1)
    closing.join(SOON)
    assert not closing.is_alive()
    assert not any(thread.is_alive() for thread in transfer._threads)
    assert transfer.collect() == [Arrival(1, DEMAND, None)]
    assert gate.began == [(1, 0)]
    transfer.close()


def test_an_interrupted_wait_loses_no_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    gate.shut(1)
    with reading(gate.read) as transfer:
        transfer.request(1, 0, DEMAND)
        with monkeypatch.context() as patched:
            patched.setattr(transfer._changed, "wait", _interrupted)
            with pytest.raises(KeyboardInterrupt):
                transfer.wait()
        gate.open(1)
        assert all_of(transfer) == [Arrival(1, DEMAND, None)]


def _interrupted(timeout: float | None = None) -> bool:
    raise KeyboardInterrupt
