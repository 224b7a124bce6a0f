"""Import names: ours come first, a foreign package of the same name is refused, and help costs no torch."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)


def test_a_foreign_package_of_our_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    done = _run(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import kernels; sys.path.pop(0); import antangel_cli"
    )
    assert done.returncode != 0
    assert "another package named kernels" in done.stderr


def test_help_loads_neither_torch_nor_pydantic_nor_the_runtime() -> None:
    code = """
import sys
sys.argv = ["antangel", "--help"]
from antangel_cli.app import main
try:
    main()
except SystemExit:
    pass
heavy = {"torch", "pydantic", "runtime", "numpy", "tokenizers"} & set(sys.modules)
sys.exit(f"loaded: {heavy}" if heavy else 0)
"""
    done = _run(code)
    assert done.returncode == 0, done.stderr


def test_importing_the_runtime_loads_no_torch() -> None:
    done = _run("import antangel_cli, runtime, sys; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0


def test_the_doors_import_the_runtime_only_when_they_are_called() -> None:
    done = _run("import antangel_cli.load, sys; sys.exit('runtime' in sys.modules)")
    assert done.returncode == 0


def test_tracked_files_are_small() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT, check=False).stdout
    sizes = {name: (ROOT / name).stat().st_size for name in listed.split("\0") if name and (ROOT / name).is_file()}
    assert all(size < 50_000_000 for size in sizes.values())
