"""A conversation as a Markdown file, to be read and filed by people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from antangel_cli.chatting.talk import Conversation
from antangel_cli.clinic.notice import DEMONSTRATION, NOTICE
from antangel_cli.clinic.rules import rules_status
from antangel_cli.errors import UsageError
from antangel_cli.escapes import clean
from antangel_cli.files import write_whole

_WORDS = {
    "title": ("Conversation", "对话"),
    "model": ("Model", "模型"),
    "times": ("From {first} to {last}", "自{first}至{last}"),
    "case": ("Case", "病例"),
    "system": ("Added instructions", "附加指令"),
    "you": ("You", "提问"),
    "reply": ("Reply", "回复"),
    "file": ("A file was attached: {count} characters", "附有文件：{count}个字符"),
    "abort": ("Stopped here.", "在此中止。"),
    "length": ("The reply ended here: it was too long.", "回复过长，在此结束。"),
    "timeout": ("The time ran out here.", "在此超时。"),
    "error": ("The generation failed here.", "生成在此失败。"),
}


def export(talk: Conversation, place: str) -> Path:
    """Write the conversation to a new file that only its owner reads. Raises UsageError."""
    last = talk.last
    path = Path(place).expanduser()
    if path.exists():
        raise UsageError(f"{path} exists already.", "Name another file.", code="exists")
    write_whole(str(path), clean("\n\n".join(_paragraphs(talk, last.at)) + "\n"), force=False)
    return path


def _paragraphs(talk: Conversation, ended: str) -> Iterator[str]:
    chinese = talk.is_chinese()
    language = "zh" if chinese else "en"
    model = talk.model
    yield f"# {_word('title', chinese)}"
    if model.demonstration:
        yield f"**{DEMONSTRATION[language]}**"
    yield NOTICE[language]
    yield rules_status(chinese=chinese)
    yield f"{_word('model', chinese)}: {model.name} ({str(model.provenance.get('weights'))[:12]})"
    yield _word("times", chinese, first=talk.created, last=ended)
    if talk.case is not None:
        yield f"{_word('case', chinese)}: {talk.case.case.id}"
        yield "\n".join(f"- {line}" for line in talk.case.fact_lines())
    if talk.system:
        yield f"{_word('system', chinese)}: {talk.system}"
    yield from _turns(talk, chinese)


def _turns(talk: Conversation, chinese: bool) -> Iterator[str]:
    spoken = talk.spoken()
    for exchange in talk.exchanges:
        yield f"## {_word('you', chinese)}, {exchange.at}"
        for text in exchange.attached:
            yield f"*{_word('file', chinese, count=str(len(text)))}*"
        yield exchange.asked
        yield f"## {_word('reply', chinese)}"
        yield spoken.shown(exchange.reply).strip()
        if exchange.finish in _WORDS:
            yield f"*{_word(exchange.finish, chinese)}*"


def _word(key: str, chinese: bool, **about: str) -> str:
    return _WORDS[key][chinese].format(**about)
