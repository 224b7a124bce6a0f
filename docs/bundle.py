"""Make dist/antangel-bundle: wheels, licences and SHA256SUMS, and try it with no network (`make bundle`)."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "dist" / "antangel-bundle"


def run(*command: str | Path) -> None:
    """Run a command and stop at its failure."""
    subprocess.run([str(part) for part in command], check=True)


def collect_wheels(folder: Path) -> None:
    """Our wheel, and everything it needs at the pinned versions; some of them are built here from source."""
    wheel = max((ROOT / "dist").glob("antangel-*.whl"), key=lambda path: path.stat().st_mtime)
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "-c",
        ROOT / "constraints.txt",
        "-w",
        folder,
        wheel,
        "torch==2.13.0",
    )


def collect_licences(folder: Path, wheels: Path) -> None:
    """The licence files that the wheels carry, one folder per package."""
    folder.mkdir()
    shutil.copyfile(ROOT / "LICENSE", folder / "antangel-LICENSE")
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if ".dist-info/" in name and Path(name).name.upper().startswith(("LICEN", "COPYING", "NOTICE")):
                    target = folder / wheel.name.split("-")[0] / name.split(".dist-info/")[1].replace("/", "_")
                    target.parent.mkdir(exist_ok=True)
                    target.write_bytes(archive.read(name))


def write_sums(folder: Path) -> None:
    """SHA256SUMS over every file, as `sha256sum --check` reads it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def try_offline(folder: Path) -> None:
    """Install into an empty environment and answer a case, in a namespace without a network."""
    with tempfile.TemporaryDirectory() as place:
        script = (
            f"cd {folder} && sha256sum --check --quiet SHA256SUMS && cd {place} && {sys.executable} -m venv env && "
            f"env/bin/pip install -q --no-index --find-links {folder}/wheels antangel && "
            f"HOME={place} env/bin/antangel diagnose {ROOT}/examples/chest-pain.json --plain -q | head -3"
        )
        run("unshare", "-rn", "bash", "-euc", script)


def main() -> None:
    """Build, check, and say where it is."""
    shutil.rmtree(BUNDLE, ignore_errors=True)
    (BUNDLE / "wheels").mkdir(parents=True)
    collect_wheels(BUNDLE / "wheels")
    collect_licences(BUNDLE / "licences", BUNDLE / "wheels")
    for name in ("install-offline.md",):
        shutil.copyfile(ROOT / "docs" / name, BUNDLE / name)
    write_sums(BUNDLE)
    try_offline(BUNDLE)
    size = sum(path.stat().st_size for path in BUNDLE.rglob("*") if path.is_file())
    sys.stdout.write(f"{BUNDLE}: {size / 1e6:.0f} MB, installed and answered with no network\n")


if __name__ == "__main__":
    main()
