"""What is printed: cleaned of what steers a terminal, cut into blocks, and only where it belongs."""

from __future__ import annotations

import io
import itertools
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antangel_cli.blocks import Blocks
from antangel_cli.errors import UsageError
from antangel_cli.terminal import MarkdownReply, Terminal, TextReply, clean


class Screen(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb\x1b[0m", "ab"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;aGk=\x07x", "x"),
        ("\x1bPq\x1b\\x", "x"),
        ("\x9b31mx", "31mx"),
        ("over\rwritten\x08", "overwritten"),
        ("a\u202eb", "ab"),
        ("tab\tline\n中文 \U0001f600", "tab\tline\n中文 \U0001f600"),
    ],
)
def test_clean_leaves_only_text(text: str, shown: str) -> None:
    assert clean(text) == shown


@given(st.text(alphabet=st.sampled_from("\x1b[]31m;\x07\\P\x9bab\n"), max_size=40))
def test_no_escape_survives_cleaning(text: str) -> None:
    assert not set(clean(text)) & {"\x1b", "\x07", "\x9b"}


MARKDOWN = "# Title\n\nOne\ntwo\n\n- a\n\n  still a\n- b\n\n```\ncode\n\nmore\n```\n\nend"


@given(st.lists(st.integers(0, len(MARKDOWN)), max_size=8))
def test_blocks_do_not_depend_on_the_pieces(cuts: list[int]) -> None:
    blocks, found = Blocks(), []
    places = [0, *sorted(cuts), len(MARKDOWN)]
    for start, end in itertools.pairwise(places):
        found += blocks.feed(MARKDOWN[start:end])
    found += blocks.finish()
    assert found == ["# Title", "One\ntwo", "- a\n\n  still a\n- b", "```\ncode\n\nmore\n```", "end"]


def test_a_block_is_given_out_before_the_text_ends() -> None:
    blocks = Blocks()
    assert blocks.feed("One.\n\nTw") == []
    assert blocks.feed("o.\n") == ["One."]


def test_a_reply_is_markdown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Screen())
    assert isinstance(Terminal().reply(), MarkdownReply)
    assert isinstance(Terminal(plain=True).reply(), TextReply)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(Terminal().reply(), TextReply)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert isinstance(Terminal().reply(), TextReply)


def test_markdown_is_never_repainted(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", screen)
    reply = Terminal(color=False).reply()
    seen: list[str] = []
    for character in "First **bold**.\n\n1. one\n2. two\n\n\x1b[2Jlast":
        reply.feed(character)
        assert screen.getvalue().startswith("".join(seen))
        seen = [screen.getvalue()]
    reply.finish()
    text = screen.getvalue()
    assert text.count("First") == text.count("last") == 1
    assert "\x1b[2J" not in text
    assert "\x1b[A" not in text
    assert "**" not in text


def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", screen)
    Terminal(color=False).failure(UsageError("What [bold]happened[/bold].", "What to do."))
    assert "\x1b[3" not in screen.getvalue()
    assert "What [bold]happened[/bold]." in screen.getvalue()
    assert "╭" in screen.getvalue()


def test_a_failure_is_two_plain_lines_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().failure(UsageError("What happened.", "What to do."))
    assert capsys.readouterr().err == "Error: What happened.\nWhat to do.\n"


def test_columns_are_aligned_by_display_width() -> None:
    table = Terminal().rows("T", [("F1", "中文", "x"), ("F10", "ab", "y")])
    assert table == "T\n  F1   中文  x\n  F10  ab    y"


def test_an_answer_in_json_keeps_its_content_and_steers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    content = {"text": "a\x9b2Jb\u202ec\x7fd\u2066e"}
    Terminal().answer(json.dumps(content, ensure_ascii=False))
    shown = capsys.readouterr().out
    assert json.loads(shown) == content
    assert clean(shown) == shown
