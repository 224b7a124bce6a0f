"""The host's part of a step, in its place among what a stream does."""

from __future__ import annotations

from typing import Protocol

import torch

from kernels.gpu.driver import Driver


class HostTask(Protocol):
    """A C function without CUDA or Python inside, and the data it takes; both by address."""

    @property
    def function(self) -> int: ...

    @property
    def data(self) -> int: ...

    def run(self) -> None: ...


class HostNode:
    """A task that a stream waits for. A graph that holds it needs it to live as long."""

    def __init__(self, task: HostTask, driver: Driver | None = None) -> None:
        self.task = task
        self._driver = driver or Driver()

    def enqueue(self, stream: torch.cuda.Stream | None) -> None:
        """Behind what is on the stream, or in the graph that is captured from it; at once without one.

        Raises kernels.gpu.driver.DriverError.
        """
        if stream is None:
            self.task.run()
        else:
            self._driver.launch_host_function(stream.cuda_stream, self.task.function, self.task.data)
