"""A text file put into a conversation: as data between marks, never as instructions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.prompt import load_prompt
from antangel_cli.clinic.readers.intake import clean
from antangel_cli.clinic.readers.kinds import require_text
from antangel_cli.errors import RejectedError, UsageError
from antangel_cli.files import decode

MOST_BYTES = 256 << 10


@dataclass(frozen=True)
class Attachment:
    """The text of a file, and how many characters that nobody sees were dropped from it."""

    text: str = field(repr=False)
    dropped: int


def read_attachment(place: str) -> Attachment:
    """Read a text file. Raises UsageError, or RejectedError for what is no text, or too long."""
    path = Path(place).expanduser()
    if not path.is_file():
        problem = "is no file" if path.exists() else "does not exist"
        raise UsageError(f"{path} {problem}.", "Name a text file.", code="no_such_file")
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from None
    _require_text(data, path)
    text, dropped = clean(decode(data, str(path)))
    if not text.strip():
        raise RejectedError(f"{path} is empty.", "Name another file.", stage="input")
    return Attachment(text.strip(), sum(dropped.values()))


def _require_text(data: bytes, path: Path) -> None:
    try:
        require_text(data)
    except InputError as error:
        raise RejectedError(f"{path}: {error.message}", error.remedy, stage="input") from None
    if len(data) > MOST_BYTES:
        raise RejectedError(
            f"{path} is larger than {MOST_BYTES >> 10} KiB.",
            "Give the part that matters.",
            code="too_large",
            stage="input",
        )
    if b"\0" in data:
        raise RejectedError(f"{path} is no text.", "Name a text file.", stage="input")


def fenced(text: str, chinese: bool) -> str:
    """A text between marks named after its hash, so that nothing in it can be written to close them."""
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{load_prompt('data', chinese).instructions}\n<data {mark}>\n{text}\n</data {mark}>"
