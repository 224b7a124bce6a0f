"""`antangel eval --import`: cases with gold from a published data set's file that the user brings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.evaluation.importers import IMPORTERS, LOST
from antangel_cli.errors import UsageError
from antangel_cli.files import decode, open_input, open_lines, read_input, require_writable
from antangel_cli.options import EvalOptions
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal

LONGEST = 1 << 20
"""Bytes of an entry's longest line."""


def import_cases(settings: Settings, data_set: str, place: str, options: EvalOptions) -> int:
    """Write a line for each case, and say how many entries made none, and what is lost."""
    terminal = Terminal.of(settings)
    require_writable(options.output, options.force)
    entries = IMPORTERS[data_set](_lines(place), lambda name: _beside(place, name))
    taken = left = 0
    with open_lines(options.output, options.force) as write:
        for case in islice(entries, options.limit):
            taken, left = taken + (case is not None), left + (case is None)
            if case is not None:
                write(json.dumps(case, ensure_ascii=False))
    terminal.remark(f"{taken} cases, {left} entries left out. {LOST[data_set]}")
    return 0


def _lines(place: str) -> Iterator[str]:
    """The lines of a file as they come, each of bounded length. Raises UsageError, RejectedError, InputError."""
    with open_input(place) as raw:
        number = 0
        while data := _line(raw, number := number + 1):
            yield decode(data, f"line {number}")


def _line(raw: Any, number: int) -> bytes:
    data: bytes = raw.readline(LONGEST + 1)
    if len(data) > LONGEST:
        raise InputError(f"Line {number} is longer than 1 MiB.", "Give the file as it was published.")
    return data


def _beside(place: str, name: str) -> str:
    """The text of a file in the same folder."""
    if place == "-":
        raise UsageError(f"{name} has to lie beside the file.", "Name the file instead of piping it in.")
    path = str(Path(place).with_name(name))
    return decode(read_input(path), path)
