"""A choice of tests for slow tools: the smallest of each."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """ANTANGEL_SMALLEST=1 keeps of every test here its first parameters, which are the smallest by custom."""
    if os.environ.get("ANTANGEL_SMALLEST") != "1":
        return
    first: dict[str, pytest.Item] = {}
    for item in items:
        first.setdefault(item.nodeid.partition("[")[0], item)
    config.hook.pytest_deselected(items=[item for item in items if item not in first.values()])
    items[:] = first.values()
