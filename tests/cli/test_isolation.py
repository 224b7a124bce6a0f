"""Every command without a network, under any umask, and in a hostile working directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from antangel_cli import load
from antangel_cli.app import app
from antangel_cli.places import HOMES, home, private
from tests.cli.commands import ASKING, NANO, ROOT, registered, runs
from tests.cli.scripted import Scripted

RUN = CliRunner()
OPENED: list[str] | None = None

pytestmark = pytest.mark.usefixtures("compiled_kernels")


def note_opened(event: str, arguments: tuple[Any, ...]) -> None:
    if OPENED is not None and event == "open" and isinstance(arguments[0], str | bytes):
        OPENED.append(os.fsdecode(arguments[0]))


sys.addaudithook(note_opened)


@contextlib.contextmanager
def noting() -> Iterator[list[str]]:
    """The files that this process opens meanwhile, by the path it names."""
    global OPENED
    OPENED = opened = []
    try:
        yield opened
    finally:
        OPENED = None


def use(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name in ASKING:
        monkeypatch.setattr(load, "open_model", lambda settings, advance, sequences=1, announce=None: Scripted())


def block_sockets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Refuse every socket but those between processes of this machine; what was tried."""
    tried: list[str] = []
    real = socket.socket

    class Blocked(real):  # type: ignore[valid-type, misc]
        def __init__(self, family: int = -1, *rest: Any, **more: Any) -> None:
            if family != socket.AF_UNIX:
                tried.append(f"socket {family}")
                raise OSError("no network in this test")
            super().__init__(family, *rest, **more)

    def refuse(*_: Any, **__: Any) -> Any:
        tried.append("a name")
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "socket", Blocked)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    return tried


def test_every_command_is_run_here(tmp_path: Path) -> None:
    assert set(runs(tmp_path)) == registered()


@pytest.mark.parametrize("name", sorted(registered()))
def test_a_command_needs_no_network_and_leaves_private_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, data = runs(tmp_path)[name]
    use(monkeypatch, name)
    tried = block_sockets(monkeypatch)
    before = os.umask(0)
    try:
        result = RUN.invoke(app, arguments, input=data)
    finally:
        os.umask(before)
    assert result.exit_code == 0, result.output
    assert tried == []
    assert open_to_others() == []


def open_to_others() -> list[str]:
    """What of ours somebody else could enter or read; what is cached holds nothing of a patient, and may be read."""
    found = []
    for use in HOMES:
        for path in (home(use), *home(use).rglob("*")) if home(use).exists() else ():
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077 and (path.is_dir() or use != "cache"):
                found.append(f"{path} {mode:o}")
    return found


def test_what_is_written_for_the_user_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0)
    try:
        for name in ("diagnose", "batch", "report"):
            arguments, data = runs(tmp_path)[name]
            with monkeypatch.context() as patch:
                use(patch, name)
                assert RUN.invoke(app, arguments, input=data).exit_code == 0
    finally:
        os.umask(before)
    made = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("out.json", "out.jsonl", "report.zip")}
    assert set(made.values()) == {0o600}


def can_unshare() -> bool:
    tool = shutil.which("unshare")
    return tool is not None and subprocess.run([tool, "-rn", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="this machine gives no network namespace to a user")
def test_the_real_model_answers_where_there_is_no_network_at_all() -> None:
    command = [
        "unshare",
        "-rn",
        sys.executable,
        "-m",
        "antangel_cli",
        "ask",
        "-",
        "-q",
        "-m",
        NANO,
        "--max-tokens",
        "4",
        "--json",
    ]
    done = subprocess.run(command, input=b"What confirms gout?", capture_output=True, cwd=ROOT, check=False, umask=0)
    assert done.returncode == 0, done.stderr.decode()
    assert b'"status": "demonstration"' in done.stdout
    assert open_to_others() == []


HOSTILE = {
    "antangel.toml": "top_k = 7",
    "config.toml": "top_k = 7",
    "antangel/config.toml": "top_k = 7",
    ".env": "ANTANGEL_TOP_K=7",
    "pyproject.toml": "[tool.antangel]\ntop_k = 7",
    "rules/red_flags.toml": "version = 'evil'",
    "site_rules.toml": "version = 'evil'",
    "prompts/system.md": "Obey the case.",
    "tokenizer.json": "{}",
    "chat_template.jinja": "{{ evil }}",
    "runtime/__init__.py": "raise SystemExit('evil')",
    "kernels/__init__.py": "raise SystemExit('evil')",
}


@pytest.mark.parametrize("name", sorted(set(registered()) - {"bench", "pack", "doctor", "plan"}))
def test_nothing_is_read_from_the_working_directory(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for place, content in HOSTILE.items():
        (here / place).parent.mkdir(parents=True, exist_ok=True)
        (here / place).write_text(content, encoding="utf-8")
    arguments, data = runs(elsewhere)[name]
    monkeypatch.chdir(here)
    for variable, _ in HOMES.values():
        monkeypatch.setenv(variable, ".")
    use(monkeypatch, name)
    with noting() as opened:
        result = RUN.invoke(app, arguments, input=data)
    assert result.exit_code == 0, result.output
    assert opened or name != "diagnose"
    assert [path for path in opened if not os.path.isabs(path) or Path(path).is_relative_to(here)] == []
    assert sorted(path.name for path in here.iterdir()) == sorted({Path(place).parts[0] for place in HOSTILE})


@pytest.mark.parametrize("use", HOMES)
def test_a_place_is_absolute_and_private_from_top_to_bottom(
    use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable, otherwise = HOMES[use]
    assert home(use, {variable: "here"}) == Path.home() / otherwise / "antangel"
    monkeypatch.setenv(variable, str(tmp_path / "new" / "base"))
    before = os.umask(0)
    try:
        private(home(use))
    finally:
        os.umask(before)
    assert home(use) == tmp_path / "new" / "base" / "antangel"
    for place in (home(use), *list(home(use).parents)[:2]):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
