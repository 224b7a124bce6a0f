"""One process per model: real processes, a real lock."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime import lock
from runtime.errors import BusyError
from runtime.lock import FileId, ModelLock, holder_of

ROOT = Path(__file__).resolve().parent.parent.parent
HOLD = "import sys; from runtime.lock import ModelLock; ModelLock.take(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@contextmanager
def holding(path: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the model until its stdin ends."""
    command = [sys.executable, *(words or ("-c", HOLD)), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=20)


def can_take(path: Path) -> bool:
    try:
        ModelLock.take(path).close()
    except BusyError:
        return False
    return True


def test_a_second_process_is_told_who_has_it(model: Path) -> None:
    with holding(model) as other, pytest.raises(BusyError) as caught:
        ModelLock.take(model)
    user = pwd.getpwuid(os.getuid()).pw_name
    assert f"process {other.pid}, user {user}, since 20" in caught.value.holder
    assert caught.value.holder in caught.value.message
    assert caught.value.remedy


def test_it_is_free_when_the_holder_ends_or_is_killed(model: Path) -> None:
    for finish in (end, lambda process: (process.send_signal(signal.SIGKILL), process.wait(timeout=20))):
        with holding(model) as other:
            assert not can_take(model)
            finish(other)
            assert can_take(model)


def test_a_link_to_the_directory_is_the_same_model(model: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(model)
    with holding(model):
        assert not can_take(link)


def test_a_pack_is_locked_by_its_manifest(model: Path) -> None:
    (model / "manifest.json").write_text("{}")
    with ModelLock.take(model), (model / "config.json").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with (model / "manifest.json").open() as own, pytest.raises(BlockingIOError):
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_nothing_is_written(model: Path) -> None:
    before = (sorted(model.iterdir()), (model / "config.json").stat().st_mtime_ns)
    with ModelLock.take(model) as held:
        assert held.holds
        assert (sorted(model.iterdir()), (model / "config.json").stat().st_mtime_ns) == before


def test_waiting_says_for_whom_once_and_then_has_it(model: Path) -> None:
    told: list[str] = []
    with holding(model) as other:
        timer = threading.Timer(0.3, end, [other])
        timer.start()
        with ModelLock.take(model, wait=True, announce=told.append) as held:
            assert held.holds
            assert other.stdin is not None
            assert other.stdin.closed
        timer.join()
    assert len(told) == 1
    assert str(other.pid) in told[0]


def test_waiting_ends_with_ctrl_c_and_leaves_nothing_open(model: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with holding(model):
        inside = len(os.listdir("/proc/self/fd"))
        timer = threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT])
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            ModelLock.take(model, wait=True)
        timer.join()
        assert len(os.listdir("/proc/self/fd")) == inside
    assert len(os.listdir("/proc/self/fd")) == before


def test_one_process_may_open_a_model_twice_and_holds_it_until_both_are_closed(model: Path) -> None:
    probe = [
        sys.executable,
        "-c",
        "import sys; from runtime.lock import ModelLock; ModelLock.take(sys.argv[1])",
        str(model),
    ]

    def taken_elsewhere() -> bool:
        return subprocess.run(probe, cwd=ROOT, capture_output=True, check=False).returncode == 0

    first, second = ModelLock.take(model), ModelLock.take(model)
    first.close()
    first.close()
    assert not taken_elsewhere()
    second.close()
    assert taken_elsewhere()


def test_a_program_that_is_started_does_not_hold_it(model: Path) -> None:
    held = ModelLock.take(model)
    command = [sys.executable, "-c", "print('up', flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        held.close()
        assert can_take(model)
        child.kill()


def test_the_holders_arguments_are_never_told(tmp_path: Path) -> None:
    program = tmp_path / "antangel"
    program.write_text(HOLD.replace("argv[1]", "argv[-1]"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for words, told in ((("ask", "Mrs Jones coughs"), "antangel ask"), (("Jones-coughs", "x"), "antangel")):
        command = [sys.executable, str(program), *words, str(tmp_path / "model")]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            with pytest.raises(BusyError) as caught:
                ModelLock.take(tmp_path / "model")
            other.kill()
        assert caught.value.holder.endswith(f": {told}")
        assert "Jones" not in str(caught.value)


def test_where_proc_tells_nothing_it_is_another_process(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (model / "config.json").open() as file:
        found = FileId.of(file.fileno())
    assert holder_of(found) == "another process"
    with holding(model):
        monkeypatch.setattr(lock, "PROC", tmp_path / "none")
        with pytest.raises(BusyError, match="in use by another process"):
            ModelLock.take(model)
        (tmp_path / "none").mkdir()
        (tmp_path / "none" / "locks").write_text(f"1: FLOCK  ADVISORY  WRITE 77 {found.in_proc} 0 EOF\n")
        assert holder_of(found) == "another process"


def test_a_file_system_without_locks_is_warned_of_and_used(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    told: list[str] = []
    held = ModelLock.take(model, announce=told.append)
    assert not held.holds
    held.close()
    assert "No locks available" in told[0]


def test_what_is_no_model_is_left_to_loading(tmp_path: Path) -> None:
    assert not ModelLock.take(tmp_path / "none").holds
