"""What was computed of a session: made when it is left, used when it is resumed, and gone with what it was made of."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pytest
from safetensors import safe_open

from antangel_cli import load
from antangel_cli.chatting import shelf
from antangel_cli.clinic.model import Model, Sampling, Taken, Task, Turn
from antangel_cli.load.opening import open_model
from antangel_cli.settings import Settings
from runtime.packing import write_pack
from tests.cli.cases import CHEST_PAIN
from tests.cli.chats import case_file, chat_with, rule, run, say, use
from tests.cli.scripted import Scripted
from tests.runtime.tiny import make_tiny_checkpoint

LONG = "Chest pain that goes to the left arm, with sweating and nausea, since this morning. " * 2


class Computing(Scripted):
    """What it computed of turns is their words."""

    def __init__(self) -> None:
        super().__init__(lambda task: (f"Drawn with {task.sampling.seed}.", None))
        self.taken: list[Taken] = []
        self.foreign = False
        self.while_writing: Callable[[], None] = lambda: None

    def write_computed(self, turns: Sequence[Turn], file: BinaryIO) -> int:
        data = json.dumps([turn.content for turn in turns]).encode()
        file.write(data[:20])
        self.while_writing()
        file.write(data[20:])
        return len(turns)

    def read_computed(self, turns: Sequence[Turn], place: Path) -> Taken:
        try:
            said = json.loads(place.read_bytes())
        except ValueError:
            said = None
        if self.foreign:
            taken = Taken(refused="it is of another model")
        elif said is None or said != [turn.content for turn in turns][: len(said)]:
            taken = Taken(refused="it is damaged", useless=True)
        else:
            taken = Taken(len(said))
        self.taken.append(taken)
        return taken


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Computing:
    used = Computing()
    use(monkeypatch, used)
    return used


def files() -> list[str]:
    return sorted(path.name for path in shelf.folder().iterdir())


def computed(name: str) -> list[str]:
    """The messages and replies in a session's file, without the instructions."""
    content: list[str] = json.loads(shelf.computed_path(name).read_bytes())
    return content[1:]


BOTH = ["mine.json", "mine.safetensors"]


def test_it_is_written_when_the_session_is_left_and_not_before(model: Computing) -> None:
    seen: list[list[str]] = []
    model.on_step = lambda step: seen.append(files())
    assert run("--session", "mine", input="one\ntwo\n").exit_code == 0
    assert {*map(tuple, seen)} == {("mine.json",)}
    assert files() == BOTH
    assert [text for text in computed("mine") if text in ("one", "two")] == ["one", "two"]
    modes = [stat.S_IMODE(path.stat().st_mode) for path in shelf.folder().iterdir()]
    assert modes == [0o600, 0o600]


def test_it_is_read_when_the_session_is_resumed(model: Computing) -> None:
    run("--session", "mine", input="one\n")
    result = run("--resume", "-v", input="two\n")
    assert model.taken == [Taken(3)]
    assert "Tokens computed before: 3" in result.stderr
    assert len(computed("mine")) == 4
    assert "computed" not in run("--resume", input="three\n").stderr


def test_a_session_without_it_is_computed(model: Computing) -> None:
    run("--session", "mine", input="one\n")
    shelf.computed_path("mine").unlink()
    assert run("--resume", input="two\n").exit_code == 0
    assert model.taken == []


@pytest.mark.parametrize("command", ["/clear", "/load other", "/save new", "/history off", "/case {case}"])
def test_each_way_to_leave_a_session_keeps_it(command: str, model: Computing, tmp_path: Path) -> None:
    run("--session", "other", input="before\n")
    chat = chat_with(model)
    say(chat, "/save mine", "one")
    assert "mine.safetensors" not in files()
    assert say(chat, command.format(case=case_file(tmp_path, CHEST_PAIN)), "two") == [0, 0]
    assert "one" in computed("mine")
    assert "two" not in computed("mine")


def test_save_writes_it_at_once(model: Computing) -> None:
    chat = chat_with(model)
    say(chat, "one", "/save mine")
    assert computed("mine")[0] == "one"
    say(chat, "two", "/save")
    assert "two" in computed("mine")


def test_with_history_on_a_turn_does_not_write_it(model: Computing) -> None:
    chat = chat_with(model)
    say(chat, "/history on", "one", "two")
    assert len(files()) == 1
    say(chat, "/clear")
    assert len(files()) == 2


@pytest.mark.parametrize("command", ["/undo", "/retry", "/system Be brief.", "/undo\n/undo"])
@pytest.mark.parametrize("resumed", [False, True])
def test_what_is_taken_back_leaves_it_at_once(command: str, resumed: bool, model: Computing) -> None:
    chat = chat_with(model)
    say(chat, "zero", "one", "/save mine")
    if resumed:
        chat = chat_with(model)
        say(chat, "/load mine")
    assert files() == BOTH
    say(chat, *command.split("\n"))
    assert files() == ["mine.json"]


def test_turns_that_come_leave_it_as_it_is(model: Computing) -> None:
    chat = chat_with(model)
    say(chat, "one", "/save mine")
    before = shelf.computed_path("mine").stat()
    say(chat, "two", "/undo", "/set temperature 0.1", "three")
    after = shelf.computed_path("mine").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_nothing_is_written_again_where_nothing_was_said(model: Computing) -> None:
    run("--session", "mine", input="one\n")
    before = shelf.computed_path("mine").stat().st_ino
    run("--session", "mine", input="")
    assert shelf.computed_path("mine").stat().st_ino == before


def test_a_file_of_another_conversation_is_deleted(model: Computing, monkeypatch: pytest.MonkeyPatch) -> None:
    run("--session", "mine", input="one\n")
    document = shelf.path_of("mine").read_text(encoding="utf-8")
    shelf.path_of("mine").write_text(document.replace('"one"', '"another"'), encoding="utf-8")
    monkeypatch.setattr(model, "write_computed", lambda turns, file: 0)
    result = run("--session", "mine", "-v", input="")
    assert result.exit_code == 0
    assert "What was computed of the session is not used: it is damaged." in result.stderr
    assert files() == ["mine.json"]


def test_one_of_another_model_is_left_until_this_one_has_its_own(model: Computing) -> None:
    run("--session", "mine", input="one\n")
    before = shelf.computed_path("mine").read_bytes()
    model.foreign = True
    assert "not used: it is of another model." in run("--session", "mine", "-v", input="").stderr
    assert shelf.computed_path("mine").read_bytes() == before
    run("--session", "mine", input="two\n")
    assert "two" in computed("mine")


def test_forget_deletes_it_and_what_was_left_of_it(model: Computing) -> None:
    run("--session", "mine", input="one\n")
    run("--session", "other", input="one\n")
    (shelf.folder() / ".mine.safetensors.abc").write_text("a patient", encoding="utf-8")
    chat = chat_with(model)
    say(chat, "/load other", "/forget mine")
    assert files() == ["other.json", "other.safetensors"]
    say(chat, "/forget", "/clear")
    assert files() == []


def test_a_forgotten_session_is_not_written_by_another_process(model: Computing) -> None:
    one, two = chat_with(model), chat_with(model)
    say(one, "/save mine", "one")
    say(two, "/forget mine")
    say(one, "/clear")
    assert files() == []


def test_a_session_that_another_process_changed_is_not_given_ours(model: Computing) -> None:
    one, two = chat_with(model), chat_with(model)
    say(one, "/save mine", "one")
    say(two, "/load mine", "two")
    say(one, "/clear")
    assert files() == ["mine.json"]


def test_what_is_old_is_deleted_with_its_session(
    model: Computing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("old", "young"):
        run("--session", name, input="one\n")
    past = time.time() - 31 * 86_400
    os.utime(shelf.path_of("old"), (past, past))
    rule(monkeypatch, tmp_path, "max_age_days = 30")
    run(input="/sessions\n")
    assert files() == ["young.json", "young.safetensors"]


def test_what_no_session_owns_is_deleted(model: Computing) -> None:
    """Someone removed a session by hand; a process was killed two days ago, another one writes just now."""
    for name in ("a.b", "gone"):
        run("--session", name, input="one\n")
    shelf.path_of("gone").unlink()
    for name, days in ((".long.safetensors.abc", 2), (".now.safetensors.abc", 0)):
        (shelf.folder() / name).write_text("a patient", encoding="utf-8")
        past = time.time() - days * 86_400
        os.utime(shelf.folder() / name, (past, past))
    run(input="/sessions\n")
    assert files() == [".now.safetensors.abc", "a.b.json", "a.b.safetensors"]


def test_a_new_session_does_not_inherit_from_one_of_its_name(model: Computing) -> None:
    run("--session", "mine", input="one\n")
    shelf.path_of("mine").unlink()
    say(chat_with(model), "/save mine")
    assert files() == ["mine.json"]


def test_a_policy_against_history_neither_reads_nor_writes_it(
    model: Computing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run("--session", "mine", input="one\n")
    before = shelf.computed_path("mine").stat().st_ino
    rule(monkeypatch, tmp_path, "history = false")
    assert run("--session", "mine", input="two\n").exit_code == 7
    assert run(input="two\n/load mine\n/save new\n/history on\n/clear\n").exit_code == 7
    assert model.taken == []
    assert files() == BOTH
    assert shelf.computed_path("mine").stat().st_ino == before


def interrupted() -> None:
    raise KeyboardInterrupt


def full() -> None:
    raise OSError(28, "No space left on device")


def test_ctrl_c_while_it_is_written_leaves_nothing_half_written(model: Computing) -> None:
    run("--session", "mine", input="one\n")
    before = shelf.computed_path("mine").read_bytes()
    model.while_writing = interrupted
    assert run("--session", "mine", input="two\n").exit_code == 130
    assert files() == BOTH
    assert shelf.computed_path("mine").read_bytes() == before
    assert run("--session", "new", input="two\n").exit_code == 130
    assert files() == [*BOTH, "new.json"]


def test_a_chat_that_ctrl_c_ends_writes_nothing_more(model: Computing) -> None:
    model.on_step = lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 2 else None
    assert run("--session", "mine", input="one\n").exit_code == 130
    assert len(json.loads(shelf.path_of("mine").read_bytes())["turns"]) == 1
    assert files() == ["mine.json"]


def test_a_full_disk_costs_the_file_and_nothing_else(model: Computing) -> None:
    model.while_writing = full
    result = run("--session", "mine", "-v", input="one\n")
    assert result.exit_code == 0
    assert "What was computed is not kept: No space left on device." in result.stderr
    assert files() == ["mine.json"]
    assert "computed" not in run("--session", "new", input="one\n").stderr


KILLED = """
import os, signal, sys
from antangel_cli import load
from antangel_cli.app import main
from tests.cli.test_chat_computed import Computing
model = Computing()
number = int(sys.argv.pop())
model.while_writing = lambda: os.kill(os.getpid(), number)
load.open_model = lambda settings, advance, sequences=1, announce=None: model
sys.argv[1:1] = ["chat", "--session", "mine"]
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_while_it_is_written_leaves_the_session_alone(number: int, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(int(number))], input="one\n", text=True, capture_output=True, timeout=120
    )
    assert done.returncode == code, done.stderr
    assert files() == ["mine.json"]


def test_what_a_killed_process_left_is_deleted_with_the_session(model: Computing) -> None:
    subprocess.run([sys.executable, "-c", KILLED, "9"], input="one\n", text=True, capture_output=True, timeout=120)
    assert len(files()) == 2
    assert "mine.json" in files()
    run(input="/forget mine\n")
    assert files() == []


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_pack(make_tiny_checkpoint(folder / "checkpoint"), folder / "tiny", experts="w8a8:32", dense="w8a8:32")
    return folder / "tiny"


@pytest.fixture
def opened() -> Iterator[Callable[[Path], Model]]:
    """Opens a model, after closing the one before."""
    models: list[Model] = []

    def another(path: Path) -> Model:
        for model in models:
            model.close()
        models[:] = [open_model(Settings(model=str(path), device="cpu", threads=1), lambda done, total: None)]
        return models[0]

    yield another
    for model in models:
        model.close()


def told(model: Model, name: str | None, *messages: str) -> list[str]:
    """The replies of a chat that goes on with a session."""
    chat = chat_with(model, max_tokens=12)  # type: ignore[arg-type]
    if name is not None:
        assert say(chat, f"/load {name}") == [0]
    assert not any(say(chat, *messages))
    return [exchange.reply for exchange in chat.talk.exchanges]


@pytest.mark.usefixtures("compiled_kernels")
def test_a_resumed_session_answers_as_one_that_never_ended(pack: Path, opened: Callable[[Path], Model]) -> None:
    lasting = told(opened(pack), None, LONG, LONG, "And now?")
    assert told(opened(pack), None, LONG, LONG, "/save mine") == lasting[:2]
    resumed = opened(pack)
    assert told(resumed, "mine", "And now?") == lasting
    assert isinstance(shared := resumed.stats()["shared_tokens"], int)
    assert shared > 200
    shelf.computed_path("mine").unlink()
    told(resumed, "mine", "/undo")
    alone = opened(pack)
    assert told(alone, "mine", "And now?") == lasting
    assert alone.stats()["shared_tokens"] == 0


@pytest.mark.usefixtures("compiled_kernels")
def test_what_the_template_leaves_out_of_the_next_prompt_is_not_kept(
    pack: Path, opened: Callable[[Path], Model], tmp_path: Path
) -> None:
    """A reply's reasoning was computed, and is in no prompt once another question follows it."""
    model = opened(pack)
    turns = [Turn("user", LONG), Turn("assistant", f"<think>\n{LONG * 3}\n</think>\n\nAn ECG.")]
    number = model.submit(Task(tuple(turns), Sampling(), 1))
    while not any(piece.task == number and piece.finish for piece in model.step()):
        pass
    with (tmp_path / "kept").open("wb") as file:
        assert 0 < model.write_computed(turns, file) < model.count(turns) - 200
    assert model.read_computed([*turns, Turn("user", "And the pressure?")], tmp_path / "kept").tokens > 0


@pytest.mark.usefixtures("compiled_kernels")
def test_a_conversation_stands_in_its_session_and_beside_it_alone(
    pack: Path, opened: Callable[[Path], Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    told(opened(pack), None, LONG, "/save mine")
    with safe_open(shelf.computed_path("mine"), "np") as file:
        tokens = file.get_tensor("tokens")[-16:].tobytes()
    folders = (Path(os.environ["HOME"]), tmp_path)
    contents = {path.name: path.read_bytes() for place in folders for path in place.rglob("*") if path.is_file()}
    assert [name for name, content in contents.items() if b"Chest pain" in content] == ["mine.json"]
    assert [name for name, content in contents.items() if tokens in content] == ["mine.safetensors"]


@pytest.mark.usefixtures("compiled_kernels")
def test_what_is_no_pack_keeps_nothing(pack: Path, opened: Callable[[Path], Model]) -> None:
    """Nothing but a pack's manifest has a hash over every byte of the weights."""
    told(opened(pack.parent / "checkpoint"), None, LONG, "/save mine")
    assert files() == ["mine.json"]
    shelf.computed_path("mine").write_bytes(b"another model's")
    told(opened(pack.parent / "checkpoint"), "mine")
    assert files() == BOTH


@pytest.mark.usefixtures("compiled_kernels")
def test_a_pack_of_other_formats_does_not_use_it(pack: Path, opened: Callable[[Path], Model], tmp_path: Path) -> None:
    told(opened(pack), None, LONG, "/save mine")
    write_pack(pack.parent / "checkpoint", tmp_path / "tiny", experts="w4a8:32", dense="w8a8:32")
    other = opened(tmp_path / "tiny")
    told(other, "mine", "And now?")
    assert other.stats()["shared_tokens"] == 0
    assert load.open_model is open_model
