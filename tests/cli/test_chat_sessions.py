"""Sessions: kept only when asked, private, whole or not at all, and under the machine's policy."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from antangel_cli import load
from antangel_cli.chatting import shelf
from antangel_cli.chatting.session import Session
from antangel_cli.clinic.checks import statements
from tests.cli.cases import CHEST_PAIN
from tests.cli.chats import case_file, chat_with, roles, rule, run, say, saying, use
from tests.cli.scripted import Scripted


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return use(monkeypatch, Scripted())


def document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shelf.path_of(name).read_text(encoding="utf-8"))
    return found


def test_nothing_is_saved_unless_asked(model: Scripted) -> None:
    run(input="one\n/system Be brief.\n/sessions\ntwo\n")
    assert not shelf.folder().exists()


def test_a_session_is_kept_after_each_turn_for_its_owner_only(model: Scripted) -> None:
    counts: list[int] = []
    model.on_step = lambda step: counts.append(len(document("mine")["turns"]))
    assert run("--session", "mine", input="one\ntwo\n").exit_code == 0
    assert {0, 1} == {*counts}
    content = document("mine")
    assert content["schema"] == "antangel.session/1"
    assert content["model"] == {"name": "scripted", "weights": "0" * 64, "demonstration": False}
    assert [turn["asked"] for turn in content["turns"]] == ["one", "two"]
    modes = {stat.S_IMODE(os.stat(path).st_mode) for path in [shelf.folder(), shelf.folder().parent]}
    assert modes == {0o700}
    assert [stat.S_IMODE(path.stat().st_mode) for path in shelf.folder().iterdir()] == [0o600]


def test_what_is_resumed_is_sent_to_the_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = use(monkeypatch, saying(" One.\n"))
    letter = tmp_path / "letter.txt"
    letter.write_text("A letter.", encoding="utf-8")
    place = case_file(tmp_path, {**CHEST_PAIN, "labs": [{"name": "K", "value": 4.1, "unit": "mmol/L"}]})
    begun = f"/case {place}\n/set temperature 0.1\n/system Be brief.\n/save mine\n/read {letter}\nfirst\n"
    assert run("--seed", "7", input=begun).exit_code == 0
    again = use(monkeypatch, Scripted())
    result = run("--resume", input="second\n/show\n")
    assert result.exit_code == 0, result.stderr
    task = again.tasks[0]
    assert task.turns[:2] == first.tasks[0].turns
    assert [turn.content for turn in task.turns[2:]] == [" One.\n", "second"]
    assert (task.sampling.temperature, task.sampling.seed) == (0.1, 7)
    assert "K 4.1 mmol/L" in result.stderr
    assert len(document("mine")["turns"]) == 2


def test_flags_are_stronger_than_a_session(model: Scripted) -> None:
    run("--session", "mine", "--temperature", "0.1", "--seed", "3", "--system", "A.", input="one\n")
    result = run("--session", "mine", "--temperature", "0.9", "--seed", "4", "--system", "B.", input="two\n")
    task = model.tasks[1]
    assert (task.sampling.temperature, task.sampling.seed) == (0.9, 4)
    assert task.turns[0].content.endswith("\n\nB.")
    assert "not used" in result.stderr


def test_a_policy_is_stronger_than_a_session(model: Scripted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run("--session", "mine", "--temperature", "0.1", "--system", "A.", input="one\n")
    rule(monkeypatch, tmp_path, 'locked = ["temperature", "system"]')
    result = run("--session", "mine", input="two\n")
    assert model.tasks[1].sampling.temperature == 0.6
    assert "A." not in model.tasks[1].turns[0].content
    assert "not used" in result.stderr


def test_another_model_on_resuming_is_said(model: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    run("--session", "mine", input="one\n")
    assert "now" not in run("--session", "mine", "-q", input="").stderr
    other = use(monkeypatch, Scripted())
    other.provenance["weights"] = "f" * 64
    result = run("--session", "mine", "-q", input="")
    assert "The session was with scripted (000000000000); now scripted (ffffffffffff) answers." in result.stderr


def damage(content: dict[str, Any], how: str) -> str:
    whole = json.dumps(content)
    return {
        "cut": whole[: len(whole) // 2],
        "empty": "",
        "a turn": whole.replace('"reply"', '"replies"'),
        "a key": whole.replace('"asked"', '"mrs jones": 1, "asked"'),
        "a value": whole.replace('"asked": "one"', '"asked": 58'),
        "deep": "[" * 100_000,
        "a surrogate": whole.replace('"one"', '"\\ud800"'),
        "the schema": whole.replace("session/1", "session/9"),
    }[how]


@pytest.mark.parametrize("how", ["cut", "empty", "a turn", "a key", "a value", "deep", "a surrogate", "the schema"])
def test_a_damaged_session_is_refused_without_its_words_and_left_alone(how: str, model: Scripted) -> None:
    run("--session", "mine", input="one\n")
    harmed = damage(document("mine"), how)
    shelf.path_of("mine").write_text(harmed, encoding="utf-8")
    result = run("--session", "mine", input="two\n")
    assert result.exit_code == 2
    assert "The session mine is damaged" in result.stderr
    assert "jones" not in result.stderr
    assert shelf.path_of("mine").read_text(encoding="utf-8") == harmed
    assert run(input="/load mine\n").exit_code == 2
    assert run(input="/forget mine\n").exit_code == 0
    assert shelf.names() == []


@pytest.mark.parametrize("name", ["../mine", ".mine", "a/b", "", "x" * 65, "mrs jones"])
def test_a_name_that_is_none_is_refused_and_not_repeated(name: str, model: Scripted) -> None:
    result = run("--session", name, input="one\n")
    assert result.exit_code == 2
    assert not name or name not in result.stderr
    assert not shelf.folder().exists()


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--session", "bad name"], 2, "no name of a session"),
        (["--resume"], 2, "no session to resume"),
        (["--session", "broken"], 2, "The session broken is damaged"),
        (["--session", "kept", "--case", "CASE"], 2, "about a case of its own"),
    ],
)
def test_a_session_that_cannot_be_is_refused_before_a_model_is_loaded(
    flags: list[str], code: int, says: str, model: Scripted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if "--resume" not in flags:
        run("--session", "kept", input="one\n")
        shelf.path_of("broken").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(load, "open_model", lambda *_, **__: pytest.fail("the model was loaded"))
    place = case_file(tmp_path, CHEST_PAIN)
    result = run(*[place if flag == "CASE" else flag for flag in flags], input="two\n")
    assert result.exit_code == code
    assert says in result.stderr


@pytest.mark.parametrize("flags", [["--history"], ["--session", "mine"], ["--resume"]])
def test_a_policy_against_history_refuses(
    flags: list[str], model: Scripted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rule(monkeypatch, tmp_path, "history = false")
    assert run(*flags, input="one\n").exit_code == 7
    assert run(input="one\n/save mine\n/history on\n/load mine\ntwo\n").exit_code == 7
    assert not shelf.folder().exists()


def test_a_policy_deletes_what_is_old_and_says_how_many(
    model: Scripted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("old", "older", "young"):
        run("--session", name, input="one\n")
    left = shelf.folder() / ".old.json.abc"
    left.write_text("a patient", encoding="utf-8")
    past = time.time() - 31 * 86_400
    for path in (shelf.path_of("old"), shelf.path_of("older"), left):
        os.utime(path, (past, past))
    rule(monkeypatch, tmp_path, "max_age_days = 30")
    result = run(input="/sessions\n")
    assert "Sessions older than 30 days, deleted: 2." in result.stderr
    assert "young" in result.stderr
    assert [path.name for path in shelf.folder().iterdir()] == ["young.json"]


def test_history_keeps_each_conversation_in_a_session_of_its_own(model: Scripted) -> None:
    run("--history", input="one\ntwo\n/clear\nthree\n/history off\nfour\n")
    kept = sorted([turn["asked"] for turn in document(name)["turns"]] for name in shelf.names())
    assert kept == [["one", "two"], ["three"]]


def test_a_new_conversation_never_overwrites_the_session_of_the_old_one(model: Scripted) -> None:
    result = run("--session", "mine", input="one\n/clear\ntwo\n/save mine\n/save other\n")
    assert result.exit_code == 2
    assert "A session of that name exists" in result.stderr
    assert [turn["asked"] for turn in document("mine")["turns"]] == ["one"]
    assert [turn["asked"] for turn in document("other")["turns"]] == ["two"]


def test_a_case_never_begins_anew_in_a_session_that_exists(model: Scripted, tmp_path: Path) -> None:
    place = case_file(tmp_path, CHEST_PAIN)
    assert run("--session", "mine", "--case", place, input="one\n").exit_code == 0
    assert document("mine")["case"]["document"]["id"] == "chest-1"
    assert run("--session", "mine", "--case", place, input="two\n").exit_code == 2
    assert [turn["asked"] for turn in document("mine")["turns"]] == ["one"]


def test_what_is_taken_back_leaves_the_session_too(model: Scripted) -> None:
    run("--session", "mine", input="one\ntwo\n/undo\n")
    assert [turn["asked"] for turn in document("mine")["turns"]] == ["one"]


def test_forget_deletes_the_file_what_was_left_of_it_and_the_conversation(model: Scripted) -> None:
    chat = chat_with(Scripted())
    say(chat, "/save mine", "one")
    known = statements._page("one")
    assert statements._page("one") is known
    (shelf.folder() / ".mine.json.abc").write_text("a patient", encoding="utf-8")
    say(chat, "/forget")
    assert [*shelf.folder().iterdir()] == []
    assert chat.talk.exchanges == []
    assert statements._page("one") is not known, "nor is what was found in it kept"
    say(chat, "two")
    assert [*shelf.folder().iterdir()] == []
    assert say(chat, "/forget mine") == [2]


def test_two_processes_never_overwrite_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    one, two = chat_with(Scripted()), chat_with(Scripted())
    say(one, "/save mine", "first")
    say(two, "/load mine", "second")
    assert say(one, "third") == [2]
    assert "changed or deleted by another process" in capsys.readouterr().err
    assert [turn["asked"] for turn in document("mine")["turns"]] == ["first", "second"]
    assert say(one, "/save mine-too") == [0]
    assert [turn["asked"] for turn in document("mine-too")["turns"]] == ["first", "third"]


def test_sessions_are_listed_the_last_one_first(capsys: pytest.CaptureFixture[str]) -> None:
    chat = chat_with(Scripted())
    say(chat, "/save a", "/clear", "/save b")
    os.utime(shelf.path_of("a"), (1e9, 1e9))
    capsys.readouterr()
    say(chat, "/sessions")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["b", "a"]
    assert lines[1].endswith("open")


def test_a_session_is_what_it_was_when_read_again(tmp_path: Path) -> None:
    chat = chat_with(Scripted())
    say(chat, f"/case {case_file(tmp_path, CHEST_PAIN)}", "/save mine", "one")
    data = shelf.path_of("mine").read_bytes()
    assert Session.from_json(data, "mine").to_json().encode() == data
    assert "Crushing" not in repr(Session.from_json(data, "mine"))


def test_where_the_session_cannot_be_written_the_reply_is_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = chat_with(saying("A reply."))
    say(chat, "/save mine")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert say(chat, "one") == [2]
    shown = capsys.readouterr()
    assert "A reply." in shown.out
    assert "No space left" in shown.err
    assert document("mine")["turns"] == []
    assert [path.name for path in shelf.folder().iterdir()] == ["mine.json"]


@pytest.mark.parametrize(
    "flags", [["--session", "a", "--resume"], ["--system", "x", "--system-file", "y"], ["--resume"], ["--case", "-"]]
)
def test_flags_that_cannot_be_meant(flags: list[str], model: Scripted) -> None:
    assert run(*flags, input="").exit_code == 2
    assert model.tasks == []


KILLED = """
import os, signal, sys
from antangel_cli import load
from antangel_cli.app import main
from tests.cli.scripted import Scripted
model = Scripted()
load.open_model = lambda settings, advance, sequences=1, announce=None: model
count = [0]
import pathlib
rename = pathlib.Path.replace
def replace(self, target):
    if str(target).endswith("mine.json"):
        count[0] += 1
        if count[0] == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
pathlib.Path.replace = replace
sys.argv = ["antangel", "chat", "--session", "mine"]
main()
"""


def test_a_process_killed_while_writing_leaves_the_turns_before() -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED], input="one\ntwo\nthree\n", text=True, capture_output=True, timeout=120
    )
    assert done.returncode == -9, done.stderr
    assert [turn["asked"] for turn in document("mine")["turns"]] == ["one"]


def test_roles_alternate_after_resuming(model: Scripted) -> None:
    run("--session", "mine", input="one\n")
    run("--session", "mine", input="two\n")
    assert roles(model.tasks[1]) == ["system", "user", "assistant", "user"]
