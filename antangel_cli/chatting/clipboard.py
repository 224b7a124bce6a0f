"""The clipboard of the terminal that a chat runs in, also over ssh: the OSC 52 sequence of xterm."""

from __future__ import annotations

import base64
import sys

from antangel_cli.errors import UsageError
from antangel_cli.escapes import clean
from antangel_cli.terminal import Terminal

MOST_BYTES = 74_994
"""What xterm takes: 100,000 bytes with the sequence, in base64."""


def copy(terminal: Terminal, text: str) -> None:
    """Give a text to the terminal's clipboard. Raises UsageError where there is no terminal, or it is too long."""
    stream = next((stream for stream in (sys.stdout, sys.stderr) if terminal.rich_on(stream)), None)
    if stream is None:
        raise UsageError("There is no terminal to copy to.", "Write it to a file instead: /export FILE.md")
    data = clean(text).encode("utf-8", "replace")
    if len(data) > MOST_BYTES:
        raise UsageError("The reply is too long for a terminal's clipboard.", "Write it to a file: /export FILE.md")
    stream.write(f"\x1b]52;c;{base64.b64encode(data).decode()}\x07")
    stream.flush()
