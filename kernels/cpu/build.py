"""Compiles the C++ sources once per compiler and set of flags, into the user's cache."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent / "src"

# No fused or reordered arithmetic; integers wrap; bytes may be read as any type; symbols of two variants never meet.
FLAGS = (
    *("-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fwrapv", "-fno-strict-aliasing"),
    *("-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-Wl,-Bsymbolic", "-w"),
)


class BuildError(RuntimeError):
    """Why there is no library, in one line that ends with the remedy."""


def build(name: str, flags: Sequence[str], announce: Callable[[str], None] | None = None) -> Path:
    """A variant's library: from the cache, else compiled, after telling `announce`. Raises BuildError."""
    compiler = find_compiler()
    command = (*compiler, *FLAGS, *flags, f'-DAA_VARIANT="{name}"', str(SOURCES / "antangel.cpp"))
    library = cache_directory() / f"{name}-{_key(command, _version(compiler))}.so"
    if not library.exists():
        if announce:
            announce(f"compiling the {name} kernels with {Path(compiler[0]).name}, once")
        _compile(command, library)
    return library


def cache_directory() -> Path:
    """Where compiled kernels are kept; readable by its owner alone."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "antangel" / "kernels"


def find_compiler() -> tuple[str, ...]:
    """$CXX with its options, else g++, else clang++. Raises BuildError."""
    wanted = tuple(shlex.split(os.environ.get("CXX", "")))
    if wanted:
        if not shutil.which(wanted[0]):
            raise BuildError(f"the compiler {wanted[0]!r} named by CXX is not there: unset CXX, or install it")
        return wanted
    for name in ("g++", "clang++"):
        if shutil.which(name):
            return (name,)
    raise BuildError("no C++ compiler was found: install g++")


@cache
def _version(compiler: tuple[str, ...]) -> str:
    result = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False)
    return result.stdout


def _key(command: Sequence[str], version: str) -> str:
    digest = hashlib.sha256("\0".join((*command, version)).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:24]


def _make_private(folder: Path) -> None:
    """`mkdir(parents=True)` would give its mode to the last folder alone."""
    for place in reversed([place for place in (folder, *folder.parents) if not place.exists()]):
        place.mkdir(mode=0o700, exist_ok=True)


def _compile(command: Sequence[str], library: Path) -> None:
    """Writes aside, then renames: of two processes at once, both succeed."""
    try:
        _make_private(library.parent)
        with tempfile.TemporaryDirectory(dir=library.parent) as aside:
            made = Path(aside) / library.name
            result = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True, check=False)
            if result.returncode or not made.exists():
                raise BuildError(f"{command[0]} failed: {_complaint(result)}: install a g++ of version 10 or later")
            made.replace(library)
    except OSError as error:
        raise BuildError(
            f"{library.parent} cannot be written ({error.strerror}): set XDG_CACHE_HOME to a folder that can"
        ) from error


def _complaint(result: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line]
    return (errors or lines or [f"exit status {result.returncode}"])[0]
