"""The standard streams, made fit to use before anything is read or printed."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import TextIO

STREAMS = (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w"))
"""What a closed stream becomes: stdin is empty, stderr goes nowhere, and a write to stdout fails, as to a full disk."""


def prepare_streams() -> None:
    """Open what was closed, in order: the next file that is opened would get its number. Then choose encodings."""
    for number, (name, flags, mode) in enumerate(STREAMS):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, flags)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    print_every_character(sys.stdout)
    print_every_character(sys.stderr)


def print_every_character(stream: TextIO) -> None:
    """Write UTF-8 into files and pipes, as `-o` does; on a terminal, escapes for what its encoding does not have."""
    if not isinstance(stream, TextIOWrapper):
        return
    if stream.isatty():
        stream.reconfigure(errors="backslashreplace")
    else:
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
