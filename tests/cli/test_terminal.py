"""What is printed: cleaned of what steers a terminal, cut into blocks, and only where it belongs."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from wcwidth import wcswidth

from antangel_cli.blocks import Block, Blocks
from antangel_cli.errors import UsageError
from antangel_cli.escapes import clean
from antangel_cli.reply import MarkdownReply, TextReply
from antangel_cli.terminal import Terminal
from tests.cli.screen import terminal


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
CUT = [
    Block("# Title"), Block("One\ntwo"), Block("- a\n\n  still a"), Block("- b", joined=True),
    Block("code", code=True), Block("", code=True, joined=True), Block("more", code=True, joined=True), Block("end"),
]  # fmt: skip


def cut(text: str, places: Sequence[int] = ()) -> list[Block]:
    blocks, found = Blocks(), []
    for start, end in itertools.pairwise([0, *sorted(places), len(text)]):
        found += blocks.feed(text[start:end])
    return found + blocks.finish()


@given(st.lists(st.integers(0, len(MARKDOWN)), max_size=8))
def test_blocks_do_not_depend_on_the_pieces(places: list[int]) -> None:
    assert cut(MARKDOWN, places) == CUT


def test_a_block_is_given_out_before_the_text_ends() -> None:
    blocks = Blocks()
    assert blocks.feed("One.\n") == []
    assert blocks.feed("\nTw") == [Block("One.")]
    assert blocks.feed("o.\n# Head\n- a\n") == [Block("Two."), Block("# Head")]
    assert blocks.feed("- b\n```\ncode\nmo") == [
        Block("- a"),
        Block("- b", joined=True),
        Block("code", code=True),
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1. a\n1. b\n1. c", ["1. a", "2. b", "3. c"]),
        ("3) a\n9) b", ["3) a", "4) b"]),
        ("1. a\n- b\n1. c", ["1. a", "- b", "1. c"]),
        ("in 1998\n1998. A year", ["in 1998\n1998. A year"]),
        ("- a\nlazy\n\nnew", ["- a\nlazy", "new"]),
        ("* * *\n- - -\nx", ["* * *\n- - -\nx"]),
        ("- a\n  ```\n- no item\n  ```\n- b", ["- a\n  ```\n- no item\n  ```", "- b"]),
        ("#hash\n####### seven", ["#hash\n####### seven"]),
        ("~~~~\n~~~\n```\n~~~~\nx", ["~~~", "```", "x"]),
        ("para\n\n    code\n\n    more", ["para", "    code", "    more"]),
        ("```a`b```\nx", ["```a`b```\nx"]),
        ("```\nnever closed", ["never closed"]),
        ("| a |\n|---|\n| b |\n\n\n\nx", ["| a |\n|---|\n| b |", "x"]),
    ],
)
def test_where_blocks_end(text: str, found: list[str]) -> None:
    assert [block.text for block in cut(text)] == found


PARTS = (
    "# Head", "plain text", "two\nlines", "- a", "- b\n  - inner", "* star", "1. one", "1. two\n\n   its paragraph", "2) other",
    "| a | b |\n|---|---|\n| c | d |", "```py\ncode\n\n- no item\n```", "- a\n  ```\n  inner code\n  ```", "> quote\n> more", "* * *", "中文段落",
)  # fmt: skip


def words(text: str) -> list[str]:
    """The text of all leaves, as markdown-it reads it."""
    tokens = MarkdownIt().enable("table").parse(text)
    return [
        token.content.rstrip("\n") for token in tokens if token.type in ("inline", "fence") and token.content.strip()
    ]


@given(st.lists(st.sampled_from(PARTS), max_size=8))
def test_blocks_hold_what_the_whole_holds(parts: list[str]) -> None:
    text = "\n\n".join(parts)
    code = itertools.groupby(cut(text), lambda block: block.code)
    found: list[str] = []
    for is_code, blocks in code:
        texts = [block.text for block in blocks]
        found += ["\n".join(texts)] if is_code else [word for each in texts for word in words(each)]
    assert "\n".join(found) == "\n".join(words(text))


@pytest.mark.parametrize(("columns", "lines"), [(40, 200), (80, 5000), (200, 200)])
def test_a_reply_longer_than_any_screen_has_each_line_once(
    columns: int, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = terminal(monkeypatch, columns, 24)
    reply = Terminal().reply()
    parts = [
        "\n".join(f"- item{n}x" for n in range(lines // 5)),
        "```\n" + "\n".join(f"code{n}x" for n in range(2 * lines // 5)) + "\n```",
        "\n\n".join(
            f"paragraph{n}x 血压90/60毫米汞柱，心率一百二十次每分，患者面色苍白四肢湿冷，考虑休克。"
            for n in range(lines // 5)
        ),
        "\n".join(["| a | b |", "|---|---|", *(f"| row{n}x | 血压 |" for n in range(lines // 5))]),
    ]
    text = "\n\n".join(parts)
    for start in range(0, len(text), 997):
        reply.feed(text[start : start + 997])
    reply.finish()
    seen = Counter(re.findall(r"(?:item|code|paragraph|row)\d+x", screen.text))
    assert len(seen) == lines
    assert set(seen.values()) == {1}
    assert max(map(wcswidth, screen.lines)) <= columns
    assert screen.text.replace("\n", "").count("考虑休克。") == lines // 5


def test_a_terminal_that_is_resized_gets_the_rest_in_its_new_width(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch, 120, 24)
    monkeypatch.delenv("COLUMNS")
    size = [os.terminal_size((120, 24))]
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: size[0])
    reply = Terminal().reply()
    sentence = "The quick brown fox jumps over the lazy dog. " * 4
    reply.feed(f"first {sentence}\n\nsecond ")
    size[0] = os.terminal_size((40, 24))
    reply.feed(f"{sentence}\n\n| a | b |\n|---|---|\n| {sentence} | third |\n")
    reply.finish()
    at = next(place for place, line in enumerate(screen.lines) if line.startswith("second"))
    assert max(map(len, screen.lines[:at])) > 100
    assert max(map(len, screen.lines[at:])) <= 40
    assert [screen.text.count(word) for word in ("first", "second", "third")] == [1, 1, 1]
    assert " ".join(screen.text.split()).count("The quick brown fox") >= 8


def test_a_reply_is_markdown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Screen())
    assert isinstance(Terminal().reply(), MarkdownReply)
    assert isinstance(Terminal(plain=True).reply(), TextReply)
    assert isinstance(Terminal(render="plain").reply(), TextReply)
    assert isinstance(Terminal(plain=True, render="markdown").reply(), MarkdownReply)
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


def test_a_note_beside_a_bar_stands_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch, 60, 24)
    shown = Terminal()
    with shown.meter("Loading the model", "bytes") as advance:
        advance(1, 2)
        shown.note("Packing the nano model, once: a note that is too long for a line of this terminal")
        advance(2, 2)
    assert screen.lines[:2] == ["Packing the nano model, once: a note that is too long for a", "line of this terminal"]
    assert "Loading" not in screen.text
