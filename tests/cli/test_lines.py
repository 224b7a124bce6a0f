"""Lines of a batch, and files."""

from __future__ import annotations

import io
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antangel_cli import lines as module
from antangel_cli.errors import RejectedError, UsageError
from antangel_cli.files import decode, open_lines, read_input, require_writable, write_whole
from antangel_cli.lines import LONGEST, Lines


def read_all(data: bytes) -> list[bytes | None]:
    lines, found = Lines(io.BytesIO(data)), []
    while not lines.ended:
        line = lines.next(0)
        if line is not None:
            assert line.number == len(found) + 1
            found.append(line.data)
    return found


@given(st.lists(st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"").replace(b"\r", b"")), max_size=9))
def test_lines_are_what_was_joined(wanted: list[bytes]) -> None:
    assert read_all(b"".join(line + b"\n" for line in wanted)) == wanted


def test_a_last_line_needs_no_end_and_windows_ends_are_read() -> None:
    assert read_all(b"a\r\nb") == [b"a", b"b"]


def test_a_line_of_more_than_4_mib_is_skipped_and_the_next_is_read() -> None:
    assert read_all(b"a\n" + b"x" * (LONGEST + 1) + b"\nb\n" + b"y" * LONGEST) == [
        b"a",
        None,
        b"b",
        b"y" * LONGEST,
    ]


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 3)
    assert read_all("中文\n\nend".encode()) == ["中文".encode(), b"", b"end"]


def test_an_empty_input_is_known_before_a_line_is_asked_for(tmp_path: Path) -> None:
    for data, empty in ((b"", True), (b"a", False), (b"\n", False)):
        (tmp_path / "in").write_bytes(data)
        with (tmp_path / "in").open("rb", buffering=0) as file:
            lines = Lines(file)
            assert [lines.known_empty(), lines.known_empty()] == [empty, empty]
            found = lines.next(0) or lines.next(0)
            assert (found is None) == empty


def test_a_pipe_that_may_still_say_something_is_not_known_to_be_empty() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream:
        lines = Lines(stream)
        assert not lines.known_empty()
        os.close(writing)
        assert lines.known_empty()


def test_waiting_for_a_line_holds_nothing_up() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", buffering=0) as other:
        lines = Lines(stream)
        started = time.monotonic()
        assert lines.next(0.05) is None
        assert not lines.ended
        assert time.monotonic() - started < 1
        other.write(b"one\ntw")
        first = lines.next(1)
        assert first is not None
        assert first.data == b"one"
        assert lines.next(0) is None
        other.close()
        last = lines.next(1)
        assert last is not None
        assert last.data == b"tw"


def test_a_file_is_written_whole_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    write_whole(str(path), "中文\n", force=False)
    assert path.read_text(encoding="utf-8") == "中文\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["out.txt"]


def test_an_existing_file_is_kept_without_force(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    for attempt in (lambda: require_writable(str(path), False), lambda: write_whole(str(path), "new", False)):
        with pytest.raises(UsageError) as caught:
            attempt()
        assert caught.value.code == "exists"
        assert "--force" in caught.value.remedy
    with pytest.raises(UsageError), open_lines(str(path), False):
        pass
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.txt"]
    write_whole(str(path), "new", force=True)
    assert path.read_text() == "new"


def test_a_link_is_followed_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_whole(str(tmp_path / "link"), "text", force=False)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "text"


def test_a_device_is_written_into(tmp_path: Path) -> None:
    require_writable("/dev/null", False)
    write_whole("/dev/null", "text", force=False)
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("place", ["none/out.txt", "."])
def test_an_impossible_output_is_refused_before_any_work(tmp_path: Path, place: str) -> None:
    with pytest.raises(UsageError):
        require_writable(str(tmp_path / place), True)


@pytest.mark.parametrize("place", ["{name}", "{name}/out.txt"])
def test_an_output_with_too_long_a_name_is_refused_and_not_repeated(tmp_path: Path, place: str) -> None:
    place = place.format(name="疼" * 86)

    def write_lines() -> None:
        with open_lines(str(tmp_path / place), False):
            pass

    attempts: tuple[Callable[[], object], ...] = (
        lambda: require_writable(str(tmp_path / place), True),
        lambda: write_whole(str(tmp_path / place), "new", False),
        write_lines,
    )
    for attempt in attempts:
        with pytest.raises(UsageError) as caught:
            attempt()
        assert caught.value.code == "name_too_long"
        assert "255 bytes" in caught.value.remedy
        assert "疼" not in str(caught.value)
    require_writable(str(tmp_path / ("a" * 255)), False)
    write_whole(str(tmp_path / ("疼" * 85)), "new", False)
    assert os.listdir(tmp_path) == ["疼" * 85]


def test_a_missing_input_says_so_and_no_more(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_input(str(tmp_path / "none"))
    with pytest.raises(UsageError, match="is a folder"):
        read_input(str(tmp_path))


def test_text_in_another_encoding_says_how_to_convert_it() -> None:
    with pytest.raises(RejectedError, match="reads as GBK") as caught:
        decode("患者男，58岁，胸痛。".encode("gbk"), "gold.jsonl")
    assert "iconv -f GBK -t UTF-8" in caught.value.remedy


def test_text_must_be_utf_8() -> None:
    assert decode(b"\xef\xbb\xbfhi", "stdin") == "hi"
    with pytest.raises(RejectedError, match="byte 2"):
        decode(b"ab\xff", "stdin")
