"""What is no text is refused by the name of its kind, with what to do."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile

import pytest

from antangel_cli.clinic.errors import InputError
from antangel_cli.clinic.readers import read_case

NOTE = "患者男，58岁，胸痛两小时，伴大汗，既往高血压。Troponin 80 ng/L."


def refusal(data: bytes) -> InputError:
    """The error it is refused with, whatever format is asked for."""
    with pytest.raises(InputError) as forced:
        read_case(data, "note.txt", "text")
    with pytest.raises(InputError) as caught:
        read_case(data, "note.txt")
    assert str(caught.value) == str(forced.value)
    assert caught.value.place == "note.txt"
    return caught.value


def archive(*names: str, stored: bytes = b"chest pain") -> bytes:
    """A ZIP archive with these files."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            file.writestr(name, stored)
    return made.getvalue()


@pytest.mark.parametrize(
    ("data", "kind", "remedy"),
    [
        (archive("[Content_Types].xml", "word/document.xml"), "a Word file (.docx)", "Save it as text"),
        (archive("[Content_Types].xml", "xl/workbook.xml"), "an Excel file", "antangel batch"),
        (archive("[Content_Types].xml", "ppt/presentation.xml"), "a PowerPoint file", "Save it as text"),
        (archive("notes.txt"), "a ZIP archive", "Unpack"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512), ".doc, .xls", "Save it as text"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF", "pdftotext"),
        (b"{\\rtf1\\ansi chest pain}", "an RTF document", "Save it as text"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG picture", "as text"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG picture", "as text"),
        (bytes(128) + b"DICM\x02\0\0\0", "a DICOM file", "report"),
        (gzip.compress(b"chest pain"), "a gzip file", "gunzip"),
        (bz2.compress(b"chest pain"), "a bzip2 file", "Unpack"),
        (lzma.compress(b"chest pain"), "an xz file", "Unpack"),
        (NOTE.encode("utf-16"), "UTF-16 text", "iconv -f UTF-16 -t UTF-8"),
        ("chest pain".encode("utf-16"), "UTF-16 text", "iconv -f UTF-16 -t UTF-8"),
    ],
)
def test_the_kind_and_the_remedy_are_named(data: bytes, kind: str, remedy: str) -> None:
    error = refusal(data)
    assert kind in error.message
    assert remedy in error.remedy
    assert "chest" not in str(error)


@pytest.mark.parametrize("encoding", ["gbk", "gb18030", "gb2312"])
def test_chinese_text_in_another_encoding_says_how_to_convert_it(encoding: str) -> None:
    rare = "𠮷" if encoding == "gb18030" else ""
    error = refusal((NOTE + rare).encode(encoding))
    named = "GB18030" if rare else "GBK"
    assert f"reads as {named}" in error.message
    assert f"iconv -f {named} -t UTF-8" in error.remedy


def test_western_text_is_not_taken_for_chinese() -> None:
    error = refusal("Fièvre élevée depuis hier, céphalée, nuque raide; 38,9 °C.".encode("cp1252"))
    assert "GB" not in str(error)
    assert "iconv -f WINDOWS-1252 -t UTF-8" in error.remedy


@pytest.mark.parametrize("text", ["PK is short for pyruvate kinase.", "BZhang reports fever.", "GI bleed.", "MM, IgG"])
def test_text_that_begins_like_a_kind_is_read(text: str) -> None:
    assert read_case(text.encode(), None).narrative == text


def test_a_word_file_of_64_mib_is_told_before_its_size() -> None:
    assert "a Word file" in refusal(archive("word/document.xml") + bytes(2 << 20)).message
