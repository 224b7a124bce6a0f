"""Reads that a test holds up and lets go."""

from __future__ import annotations

import threading

SOON = 5.0  # seconds until a test that hangs fails


class Gate:
    """Reads that stop until they are let go, in the order in which they began."""

    def __init__(self) -> None:
        self.began: list[tuple[int, int]] = []
        self._shut: set[int] = set()
        self._changed = threading.Condition()

    def shut(self, *experts: int) -> None:
        with self._changed:
            self._shut.update(experts)

    def open(self, *experts: int) -> None:
        with self._changed:
            self._shut.difference_update(experts)
            self._changed.notify_all()

    def read(self, expert: int, slot: int) -> None:
        with self._changed:
            self.began.append((expert, slot))
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: expert not in self._shut, SOON)

    def until_begun(self, *experts: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: {e for e, _ in self.began} >= set(experts), SOON)
