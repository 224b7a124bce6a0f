"""Steps are launched, then captured, then replayed; a capture that fails is said and costs nothing but speed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch

from runtime.gpu.graphs import Graphs

GPU = torch.device("cuda")


class Recorder:
    """Stands for CUDA's graphs: what is launched within a capture happens at each replay."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.made: list[str] = []
        self.capturing = False
        self.modes: list[str] = []

    def launch(self) -> None:
        self.made.append("captured" if self.capturing else "launched")

    def graph_class(self) -> type:
        recorder = self

        class Graph:
            def replay(self) -> None:
                recorder.made.append("replayed")

        return Graph

    @contextlib.contextmanager
    def capture(self, graph: object, capture_error_mode: str) -> Iterator[None]:
        self.modes.append(capture_error_mode)
        self.capturing = True
        try:
            yield
            if self.fails:
                raise RuntimeError("operation not permitted when stream is capturing\nmore")
        finally:
            self.capturing = False


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Recorder:
    found = Recorder(fails=getattr(request, "param", False))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", found.graph_class())
    monkeypatch.setattr(torch.cuda, "graph", found.capture)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return found


def test_the_second_of_a_kind_is_captured_and_the_others_replayed(recorder: Recorder) -> None:
    graphs = Graphs(GPU, wanted=True, announce=None)
    for kind in ("a", "a", "b", "a"):
        graphs.run(kind, recorder.launch)
    assert recorder.made == ["launched", "captured", "replayed", "launched", "replayed"]
    assert recorder.modes == ["thread_local"]
    assert graphs.replays == 2


@pytest.mark.parametrize("recorder", [True], indirect=True)
def test_a_capture_that_fails_is_said_once(recorder: Recorder) -> None:
    said: list[str] = []
    graphs = Graphs(GPU, wanted=True, announce=said.append)
    for _ in range(4):
        graphs.run("a", recorder.launch)
    assert recorder.made == ["launched", "captured", "launched", "launched", "launched"]
    assert len(said) == 1
    assert said[0].endswith("operation not permitted when stream is capturing")
    assert graphs.replays == 0


@pytest.mark.parametrize(("device", "wanted"), [(GPU, False), (torch.device("cpu"), True)])
def test_without_graphs_all_is_launched(recorder: Recorder, device: torch.device, wanted: bool) -> None:
    graphs = Graphs(device, wanted=wanted, announce=None)
    for _ in range(3):
        graphs.run("a", recorder.launch)
    assert recorder.made == ["launched"] * 3
