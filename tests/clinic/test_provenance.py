"""The local key and what is known about the tool."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from antangel_cli.clinic.provenance import git_commit, input_hmac, key_file, local_key
from tests.clinic.cases import make_case


def test_key_is_made_once_and_private() -> None:
    first = local_key()
    assert first is not None
    assert len(first) == 32
    assert local_key() == first
    assert stat.S_IMODE(key_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(key_file().parent.stat().st_mode) == 0o700
    assert [path.name for path in key_file().parent.iterdir()] == ["key"]


def test_hmac_tells_cases_apart_and_repeats() -> None:
    one, two = make_case(), make_case(chief_complaint="fever")
    assert input_hmac(one) == input_hmac(make_case())
    assert input_hmac(one) != input_hmac(two)


def test_hmac_differs_between_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = input_hmac(make_case())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert input_hmac(make_case()) != here


def test_no_key_no_hmac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert input_hmac(make_case()) is None


def test_a_cut_key_is_not_used() -> None:
    key_file().parent.mkdir(parents=True)
    key_file().write_bytes(b"short")
    assert local_key() is None


def test_commit(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
    (tmp_path / "HEAD").write_text("ref: refs/heads/main\n")
    assert git_commit(tmp_path) is None
    (tmp_path / "packed-refs").write_text(f"# pack\n{'b' * 40} refs/heads/main\n")
    assert git_commit(tmp_path) == "b" * 40
    (tmp_path / "refs" / "heads").mkdir(parents=True)
    (tmp_path / "refs" / "heads" / "main").write_text(f"{'a' * 40}\n")
    assert git_commit(tmp_path) == "a" * 40
    (tmp_path / "HEAD").write_text("c" * 40)
    assert git_commit(tmp_path) == "c" * 40
