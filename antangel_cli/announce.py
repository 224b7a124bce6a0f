"""What is said on stderr around an answer: the notice, which model answers, and the measurements."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator

from antangel_cli import load, self_test, source
from antangel_cli.clinic.model import Model
from antangel_cli.clinic.notice import DEMONSTRATION, NOTICE
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal

MEASURED = ("bytes_moved", "hit_rate", "ram_peak", "ram_budget", "decode_tok_s", "ttft_ms")
"""What `--stats` always names, null where there is nothing to measure."""


def announce(terminal: Terminal, chinese: bool) -> None:
    """Print the notice, unless quiet."""
    terminal.remark(NOTICE["zh" if chinese else "en"])


@contextlib.contextmanager
def opened(settings: Settings, terminal: Terminal, chinese: bool, sequences: int | None = 1) -> Iterator[Model]:
    """The model that answers, closed at the end; one that fails its self-test is not handed out.

    The demonstration model is named, even when quiet.
    """
    started = time.monotonic()
    with terminal.meter("Loading the model", "bytes") as advance:
        model = load.open_model(settings, advance, sequences, terminal.remark)
    if model.demonstration:
        terminal.note(f"{DEMONSTRATION['zh' if chinese else 'en']}\n{source.set_up_hint(chinese)}")
    terminal.detail(f"{model.name} loaded in {time.monotonic() - started:.1f} s; {_where(model)}")
    cut = False
    try:
        self_test.require_sound(model, terminal.remark)
        yield model
    except KeyboardInterrupt:
        # A step that was cut in two leaves nothing that could be tidied up; the process ends here.
        cut = True
        raise
    finally:
        if not cut:
            model.close()


def _where(model: Model) -> str:
    known = model.provenance
    return f"{known.get('number_format')} on {known.get('device')}, context {model.context}"


def print_stats(settings: Settings, terminal: Terminal, model: Model) -> None:
    """The measurements as one line of JSON, when asked for; the last line on stderr."""
    if settings.stats:
        terminal.note(json.dumps(dict.fromkeys(MEASURED) | model.stats()))
