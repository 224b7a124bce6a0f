"""How long an answer may take, said once its rate is known and only where that is long."""

from __future__ import annotations

import time
from collections.abc import Callable

MEASURED_TOKENS = 16
"""After so many tokens the rate is known well enough."""
ANSWER_TOKENS = 1024
"""A usual answer's, at the most."""
LONG_S = 120

Say = Callable[[str], None]


class Pace:
    """Counts tokens as they come; `most` is how many there may be, over all samples."""

    def __init__(self, most: int, reasons: bool, chinese: bool, say: Say) -> None:
        self._most = most
        self._words = (reasons, chinese)
        self._say = say
        self._first: tuple[int, float] | None = None
        self._said = False

    def see(self, count: int) -> None:
        """Take note that `count` tokens have come so far."""
        now = time.monotonic()
        if self._first is None:
            self._first = (count, now)
            return
        tokens, seconds = count - self._first[0], now - self._first[1]
        if not self._said and tokens >= MEASURED_TOKENS and seconds > 0:
            self._said = True
            self._judge(tokens / seconds)

    def _judge(self, rate: float) -> None:
        seconds = self._most / rate
        if seconds > LONG_S:
            self._say(_text(rate, round(seconds / 60), *self._words))


def _text(rate: float, minutes: int, reasons: bool, chinese: bool) -> str:
    if chinese:
        remedy = "；--reasoning off 可更快得到回答" if reasons else ""
        return f"每秒{rate:.1f}个词元，最长可能需要{minutes}分钟{remedy}。"
    remedy = "; --reasoning off answers sooner" if reasons else ""
    return f"At {rate:.1f} tokens a second this may take up to {minutes} minutes{remedy}."
