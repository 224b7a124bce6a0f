"""Brings experts from where they rest into slots: several reads in flight, the needed before the guessed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from runtime.errors import AntangelError, ExpertReadError

# Fills the memory of a slot with an expert's bytes.
Read = Callable[[int, int], None]

# How often a wait looks whether anyone is left to wait for, in seconds.
LOOK_EVERY = 1.0


class Cause(IntEnum):
    """Why an expert is read, the more urgent the lower."""

    DEMAND = 0
    PASS = 1
    LOOKAHEAD = 2
    PREWARM = 3


@dataclass(frozen=True)
class Arrival:
    """A read that has ended; with an error, the slot's bytes are not the expert's."""

    expert: int
    cause: Cause
    error: AntangelError | None


class ExpertTransfer:
    """Reads experts into slots on threads of its own.

    `read` is called with an expert and a slot, from any of the threads. An expert is asked for once, until its arrival
    has been collected.
    """

    def __init__(self, read: Read, readers: int) -> None:
        self._read = read
        self._changed = threading.Condition()
        self._queues: dict[Cause, deque[int]] = {cause: deque() for cause in Cause}
        self._slots: dict[int, int] = {}  # of experts that were asked for and not collected
        self._causes: dict[int, Cause] = {}
        self._arrivals: deque[Arrival] = deque()
        self._closed = False
        self._threads = [threading.Thread(target=self._serve, name=f"experts-{i}", daemon=True) for i in range(readers)]
        for thread in self._threads:
            thread.start()

    @property
    def pending(self) -> int:
        """Experts that were asked for and not collected."""
        return len(self._slots)

    def has(self, expert: int) -> bool:
        """Whether an expert was asked for and not collected."""
        return expert in self._slots

    def request(self, expert: int, slot: int, cause: Cause) -> None:
        """Asks for an expert. The slot's memory is the reader's until the arrival is collected."""
        with self._changed:
            self._slots[expert] = slot
            self._causes[expert] = cause
            self._queues[cause].append(expert)
            self._changed.notify_all()

    def hasten(self, expert: int) -> None:
        """An expert that was asked for on a guess is needed now."""
        with self._changed:
            queue = self._queues[self._causes[expert]]
            if expert in queue:
                queue.remove(expert)
                self._queues[Cause.DEMAND].append(expert)

    def take_back(self) -> int | None:
        """The least urgent expert that nobody needs now and whose read has not begun, which is no longer asked for."""
        with self._changed:
            for cause in (Cause.PREWARM, Cause.LOOKAHEAD, Cause.PASS):
                if self._queues[cause]:
                    expert = self._queues[cause].pop()
                    del self._slots[expert], self._causes[expert]
                    return expert
        return None

    def collect(self) -> list[Arrival]:
        """What has ended since the last time."""
        with self._changed:
            return self._collect()

    def wait(self) -> list[Arrival]:
        """Waits until a read has ended. Raises ExpertReadError when none can."""
        with self._changed:
            while not self._arrivals:
                if not self._slots:
                    raise RuntimeError("there is no read to wait for")
                if not any(thread.is_alive() for thread in self._threads):
                    raise ExpertReadError("every thread that reads experts has ended", "Start the program again.")
                self._changed.wait(LOOK_EVERY)
            return self._collect()

    def close(self) -> None:
        """Ends the threads when the reads in flight have ended."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _collect(self) -> list[Arrival]:
        arrived = list(self._arrivals)
        self._arrivals.clear()
        for arrival in arrived:
            del self._slots[arrival.expert], self._causes[arrival.expert]
        return arrived

    def _serve(self) -> None:
        while (expert := self._next()) is not None:
            error = self._attempt(expert, self._slots[expert])
            with self._changed:
                self._arrivals.append(Arrival(expert, self._causes[expert], error))
                self._changed.notify_all()

    def _next(self) -> int | None:
        with self._changed:
            while not self._closed:
                for cause in Cause:
                    if self._queues[cause]:
                        return self._queues[cause].popleft()
                self._changed.wait()
        return None

    def _attempt(self, expert: int, slot: int) -> AntangelError | None:
        """Whatever goes wrong is told to who waits: a silent reader would be waited for forever."""
        try:
            self._read(expert, slot)
        except AntangelError as error:
            return error
        except BaseException as error:
            return ExpertReadError(f"expert {expert} could not be read: {error!r}", "Start the program again.")
        return None
