"""The wheel owns one top-level name and carries what it needs."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(place.glob("*.whl"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_owns_one_top_level_name(names: list[str]) -> None:
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"antangel_cli"}


@pytest.mark.parametrize(
    "path",
    [
        "runtime/engine.py",
        "runtime/chat_template.jinja",
        "kernels/reference.py",
        "prompts/system.md",
        "prompts/tasks/diagnose.toml",
        "nano/checkpoint/config.json",
        "nano/checkpoint/tokenizer.json",
        "nano/checkpoint/README.md",
    ],
)
def test_carries_the_bundled_folders(names: list[str], path: str) -> None:
    assert f"antangel_cli/_bundled/{path}" in names


def test_carries_the_weights_and_the_rules(names: list[str]) -> None:
    assert any(
        name.startswith("antangel_cli/_bundled/nano/checkpoint/") and name.endswith(".safetensors") for name in names
    )
    assert "antangel_cli/clinic/rules/red_flags/chest_pain.toml" in names


def test_an_unpacked_wheel_imports_its_own_folders(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import antangel_cli; import runtime; "
        "print(runtime.__file__); from antangel_cli.clinic.prompt import load_prompt; load_prompt('diagnose', True)"
    )
    out = subprocess.run(
        [sys.executable, "-I", "-c", code, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert out.stdout.strip() == str(tmp_path / "antangel_cli" / "_bundled" / "runtime" / "__init__.py")
