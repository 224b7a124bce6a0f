"""Markdown: the page's content, and nothing of a case or an answer that acts as markup."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from antangel_cli.clinic.diagnose import DiagnoseOptions, diagnose
from antangel_cli.clinic.writers import write
from antangel_cli.clinic.writers.markdown import escaped
from tests.clinic.cases import adult
from tests.clinic.scripted import answer, diagnosis, model_saying

RENDER = MarkdownIt("gfm-like", {"html": True, "linkify": False})
NASTY = [
    "<script>alert(1)</script>", "<!-- x -->", "[a](http://b)", "![a](b)", "**bold**", "_x_", "`code`", "# heading",
    "- item", "1. one", "1) one", "+ plus", "> quote", "| a | b |", "~~gone~~", "&lt;b&gt;", "---", "===", "a\nb", "\\*x*",
    "    indented", "<http://auto.example>", "* star", "12) twelve",
]  # fmt: skip


@pytest.mark.parametrize("text", NASTY)
def test_what_is_escaped_is_shown_as_it_stands(text: str) -> None:
    tokens = RENDER.parse(f"before\n\n{escaped(text)}\n\nafter")
    assert [t.type for t in tokens] == ["paragraph_open", "inline", "paragraph_close"] * 3
    shown = tokens[4].children or []
    assert {t.type for t in shown} <= {"text", "text_special"}
    assert "".join(t.content for t in shown) == " ".join(text.split())


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_no_markup_of_a_case_gets_through(text: str, lang: str) -> None:
    case = adult(narrative=f"pain {text}")
    said = answer(diagnosis(text, discriminating_test=text), diagnosis("B"), diagnosis("C"), summary=text)
    record = diagnose(case, DiagnoseOptions(lang=lang, reasoning="show"), model_saying(said))
    tokens = RENDER.parse(write(record, case, "md", lang=lang))
    inline = [child for token in tokens for child in token.children or []]
    assert {t.type for t in inline} <= {"text", "text_special", "strong_open", "strong_close", "softbreak"}
    blocks = {t.type.rsplit("_", 1)[0] for t in tokens if not t.type.startswith("hr")}
    assert blocks <= {"paragraph", "inline", "heading", "bullet_list", "ordered_list", "list_item"}


def test_diagnoses_are_one_numbered_list() -> None:
    case = adult()
    page = write(diagnose(case, DiagnoseOptions(), model_saying()), case, "md")
    tokens = RENDER.parse(page)
    assert sum(t.type == "ordered_list_open" for t in tokens) == 1
    assert page.index("Urgency") < page.index("## Red flags") < page.index("## Differential diagnosis")
    assert "1. First disease - possible" in page


def test_headings_keep_their_words() -> None:
    case = adult()
    page = write(diagnose(case, DiagnoseOptions(lang="zh"), model_saying()), case, "md", lang="zh")
    assert "## 鉴别诊断" in page
