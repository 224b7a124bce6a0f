"""What an input is that is no UTF-8 text, told by its first bytes, and how to make text of it."""

from __future__ import annotations

from antangel_cli.clinic.errors import InputError

_SAVE = "Save it as text (.txt, UTF-8) where it was written, or copy its text into a file."
_UNPACK = "Unpack it first, and give the file in it."
_DESCRIBE = "Pictures are not read: write what it shows as text."

_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"%PDF", "a PDF", "Make it text first: pdftotext FILE.pdf FILE.txt, and look at what came out."),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Word or Excel file (.doc, .xls)", _SAVE),
    (b"{\\rtf", "an RTF document", _SAVE),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture", _DESCRIBE),
    (b"\xff\xd8\xff", "a JPEG picture", _DESCRIBE),
    (b"GIF8", "a GIF picture", _DESCRIBE),
    (b"II*\0", "a TIFF picture", _DESCRIBE),
    (b"MM\0*", "a TIFF picture", _DESCRIBE),
    (b"\x1f\x8b", "a gzip file", "Unpack it first: gunzip FILE.gz"),
    (b"BZh9", "a bzip2 file", _UNPACK),
    (b"\xfd7zXZ\0", "an xz file", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", _UNPACK),
    (b"\xff\xfe", "UTF-16 text", "Convert it: iconv -f UTF-16 -t UTF-8 FILE > FILE.utf8.txt"),
    (b"\xfe\xff", "UTF-16 text", "Convert it: iconv -f UTF-16 -t UTF-8 FILE > FILE.utf8.txt"),
)
"""First bytes, what begins with them, and what to do."""

_IN_ZIP: tuple[tuple[bytes, str, str], ...] = (
    (b"word/", "a Word file (.docx)", _SAVE),
    (b"xl/", "an Excel file (.xlsx)", "Put each patient on a line of JSON (docs/inputs.md), and run antangel batch."),
    (b"ppt/", "a PowerPoint file (.pptx)", _SAVE),
    (b"application/vnd.oasis.opendocument", "an OpenDocument file", _SAVE),
)
"""What a ZIP archive holds when it is a document."""

_DICOM_AT = 128
_CHINESE_SHARE = 0.2


def require_text(data: bytes) -> None:
    """Refuse a document, picture or archive by the name of its kind. Raises InputError."""
    kind = _kind(data)
    if kind is not None:
        raise InputError(f"This is {kind[0]}, which is not read.", kind[1])


def not_utf8(data: bytes, byte: int) -> tuple[str, str]:
    """What to say of bytes that break as UTF-8 at `byte`, and how to convert them."""
    encoding = _chinese_encoding(data)
    message = f"The input is no UTF-8 text: byte {byte} is not valid."
    if encoding is None:
        return message, "Convert it, from Western Windows for example: iconv -f WINDOWS-1252 -t UTF-8 FILE > FILE.txt"
    return f"{message} It reads as {encoding}.", f"Convert it: iconv -f {encoding} -t UTF-8 FILE > FILE.utf8.txt"


def _kind(data: bytes) -> tuple[str, str] | None:
    if data.startswith(b"PK\x03\x04"):
        return next(((name, remedy) for mark, name, remedy in _IN_ZIP if mark in data), ("a ZIP archive", _UNPACK))
    if data[_DICOM_AT : _DICOM_AT + 4] == b"DICM" and b"\0" in data[:_DICOM_AT]:
        return "a DICOM file", "Give the report as text; pictures are not read."
    return next(((name, remedy) for start, name, remedy in _KINDS if data.startswith(start)), None)


def _chinese_encoding(data: bytes) -> str | None:
    """The Chinese encoding in which at least a fifth of the letters are Chinese characters."""
    for encoding in ("GBK", "GB18030"):
        try:
            letters = [char for char in data.decode(encoding) if char.isalpha()]
        except UnicodeDecodeError:
            continue
        if letters and sum("\u4e00" <= char <= "\u9fff" for char in letters) >= _CHINESE_SHARE * len(letters):
            return encoding
    return None
