"""Who is compared: ours in two choices of formats, llama.cpp, and a reader of memory. Makes the files they need."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench.bandwidth import bandwidth_command
from bench.peer_settings import PeerSettings
from bench.place import FILES, ROOT
from bench.worker import Worker
from kernels.formats import Format
from runtime.measuring.random_pack import RandomModel, write_random_pack

OURS, DEFAULT, PEER, BANDWIDTH = "antangel w4a8:64", "antangel default", "llama.cpp Q4_0", "bandwidth"

# Formats of experts, and of every other matrix.
FORMATS = {OURS: ("w4a8:64", "w4a8:64"), DEFAULT: ("w4a8:64", "w8a8:64")}


@dataclass(frozen=True)
class Contenders:
    """Starts workers on the models of a shape."""

    shape: Path
    threads: int
    peer_python: Path

    @cached_property
    def directory(self) -> Path:
        """Where the models of this shape are."""
        return FILES / hashlib.sha256(self.shape.read_bytes()).hexdigest()[:12]

    def make_files(self) -> None:
        """The GGUF and both packs, each where it is not there yet."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self._gguf.exists():
            _say(f"writing {self._gguf}")
            command = [self.peer_python, "-m", "bench.peer.gguf_file", self.shape, self._gguf]
            subprocess.run(command, cwd=ROOT, check=True)
        for name, (experts, dense) in FORMATS.items():
            self._make_pack(self._pack(name), Format.parse(experts), Format.parse(dense))

    def ours(self, name: str) -> Worker:
        command = [sys.executable, "-m", "bench.engine", str(self._pack(name)), "--threads", str(self.threads)]
        return Worker(name, command, self._log(name))

    def peer(self, settings: PeerSettings) -> Worker:
        command = [str(self.peer_python), "-m", "bench.peer.engine", str(self._gguf), "--threads", str(self.threads)]
        return Worker(PEER, command + settings.flags, self._log(PEER))

    def bandwidth(self) -> Worker:
        return Worker(BANDWIDTH, bandwidth_command(self.threads), self._log(BANDWIDTH), introduces=False)

    @property
    def _gguf(self) -> Path:
        return self.directory / "q4_0.gguf"

    def _pack(self, name: str) -> Path:
        return self.directory / _file_name(name)

    def _log(self, name: str) -> Path:
        return self.directory / f"{_file_name(name)}.log"

    def _make_pack(self, path: Path, experts: Format, dense: Format) -> None:
        if path.exists():
            return
        _say(f"writing {path}")
        part, first = path.with_suffix(".part"), self._pack(OURS)
        shutil.rmtree(part, ignore_errors=True)
        model = RandomModel(json.loads(self.shape.read_text(encoding="utf-8")), experts, dense)
        write_random_pack(model, part, like=first if first.exists() else None)
        part.rename(path)


def _file_name(name: str) -> str:
    return name.replace(" ", "-").replace(":", "-").replace(".", "-")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
