"""Chats for tests: with a scripted model, by messages or by keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from typer.testing import CliRunner, Result

from antangel_cli import load
from antangel_cli import settings as settings_module
from antangel_cli.app import app
from antangel_cli.chat import Chat, Conversation, converse, prompt_reader, take
from antangel_cli.chatting.keeping import Keeper
from antangel_cli.clinic.model import Task
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal
from tests.cli.scripted import Scripted


def chat_with(model: Scripted, doses: bool = False, system: str | None = None, **settings: Any) -> Chat:
    """A chat with a model, seed 1 unless told."""
    chosen = Settings(**{"seed": 1, **settings})
    talk = Conversation(model, chosen, Terminal(), system, doses=doses)
    return Chat(talk, Keeper(chosen, talk.terminal))


def say(chat: Chat, *messages: str) -> list[int]:
    """Give a chat some messages; the exit code each stands for."""
    return [take(chat, message) for message in messages]


def typed(keys: str, model: Scripted | None = None, vi: bool = False) -> tuple[list[str], int]:
    """What a chat sends when these keys are pressed, and how it ends."""
    scripted = model or Scripted()
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text(keys)
        code = converse(chat_with(scripted), prompt_reader(pipe, DummyOutput(), vi), interactive=True)
    return [task.turns[-1].content for task in scripted.tasks], code


def saying(*replies: str) -> Scripted:
    """A model that gives these replies in turn, and then the last one again."""
    said = iter(replies)
    last = replies[-1]
    return Scripted(lambda task: (next(said, last), None))


def sent(model: Scripted) -> list[str]:
    """The last message of each task."""
    return [task.turns[-1].content for task in model.tasks]


def roles(task: Task) -> list[str]:
    """Who said what, in order."""
    return [turn.role for turn in task.turns]


def use(monkeypatch: pytest.MonkeyPatch, model: Scripted) -> Scripted:
    """Let commands open this model."""
    monkeypatch.setattr(load, "open_model", lambda settings, advance, sequences=1, announce=None: model)
    return model


def run(*arguments: str, input: str | bytes = "") -> Result:
    """Run the program's chat."""
    return CliRunner().invoke(app, ["chat", *arguments], input=input)


def rule(monkeypatch: pytest.MonkeyPatch, folder: Path, *lines: str) -> None:
    """Give the machine a policy."""
    place = folder / "system.toml"
    place.write_text("\n".join(("[policy]", *lines)), encoding="utf-8")
    monkeypatch.setattr(settings_module, "SYSTEM_CONFIG", place)


def case_file(folder: Path, content: dict[str, Any]) -> str:
    """A case in a file."""
    path = folder / "case.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)
