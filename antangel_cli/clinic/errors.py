"""Why an input is refused. Nothing here ever carries the text of a case."""

from __future__ import annotations


class InputError(Exception):
    """The input is no case, or cannot be sent: what is wrong, what to do, and where (exit 3)."""

    def __init__(self, message: str, remedy: str, place: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.place = place

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        return f"{where}{self.message}\n{self.remedy}"
