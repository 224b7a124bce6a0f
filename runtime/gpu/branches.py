"""What runs side by side on a device: streams that fork and join, or one thing after another without them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

# An event that other branches wait for; None where nothing runs side by side.
Mark = torch.cuda.Event | None


class Branches:
    """The branches of a step beside the current stream: the link to host memory, guesses on it, and the host's cores.

    Within a capture they become branches of the graph. On a CPU everything runs in the order in which it is written,
    which is therefore an order that is right.
    """

    def __init__(self, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        self._streams = {name: torch.cuda.Stream(device) for name in ("link", "ahead", "host")} if on_gpu else {}

    def mark(self) -> Mark:
        """What the current stream has been given so far."""
        if not self._streams:
            return None
        event = torch.cuda.Event()
        event.record()
        return event

    def wait(self, *marks: Mark) -> None:
        """What follows on the current stream waits."""
        for mark in marks:
            if mark is not None:
                torch.cuda.current_stream().wait_event(mark)

    @contextlib.contextmanager
    def on(self, name: str, *after: Mark) -> Iterator[torch.cuda.Stream | None]:
        """What is launched within runs on a branch, after these marks."""
        if not self._streams:
            yield None
            return
        with torch.cuda.stream(self._streams[name]):
            self.wait(*after)
            yield self._streams[name]
