"""No test of the command line sees the configuration of the person who runs it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from antangel_cli.places import home, private
from kernels.cpu.build import cache_directory

COMPILED = cache_directory()
"""Where the person who runs the tests keeps compiled kernels: compiling takes longer than most tests."""


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home: Path = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for name in [name for name in os.environ if name.startswith(("ANTANGEL_", "XDG_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def compiled_kernels(_own_home: None) -> None:
    """Kernels that are compiled already, in a home that is empty otherwise."""
    if COMPILED.is_dir():
        (private(home("cache")) / "kernels").symlink_to(COMPILED, target_is_directory=True)
