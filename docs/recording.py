"""Record a chat, a diagnosis and a batch in a real terminal, with the demonstration model, as they happen.

    python docs/recording.py    # writes docs/recordings/NAME.cast (asciicast v2) and NAME.svg

Play one with `asciinema play docs/recordings/chat.cast`. The SVG is what stands in the terminal at the end, with the
lines that scrolled off. Needs pexpect and pyte, which `make setup` installs.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import pexpect
import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "recordings"
COLUMNS, ROWS = 100, 30
KEY_S = 0.04
WAIT_S = 180
PROMPT = r"\x1b\[\?2004h\$ $"
CHAT_PROMPT = r"(?s)\x1b\[\?2004h.*?>"


@dataclass(frozen=True)
class Scene:
    """A command as it is typed, and what is typed into it once it shows its prompt."""

    name: str
    command: str
    typed: tuple[str, ...] = ()


SCENES = (
    Scene("diagnose", "antangel diagnose examples/chest-pain.json"),
    Scene("batch", "antangel batch examples/cases.jsonl -o out.jsonl && jq -c '[.id, .urgency_final]' out.jsonl"),
    Scene("chat", "antangel chat", ("What confirms gout?", "/case examples/calf-swelling.json", "/diagnose", "/exit")),
)


@dataclass
class Recorder:
    """What came from a terminal, and when."""

    events: list[tuple[float, str]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def write(self, text: str) -> int:
        """Note what came."""
        self.events.append((time.monotonic() - self.began, text))
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""

    def cast(self, title: str) -> str:
        """The asciicast (https://docs.asciinema.org/manual/asciicast/v2/)."""
        head = {"version": 2, "width": COLUMNS, "height": ROWS, "title": title, "env": {"TERM": "xterm-256color"}}
        lines = [json.dumps(head), *(json.dumps([round(at, 3), "o", text]) for at, text in self.events)]
        return "\n".join(lines) + "\n"

    def screen(self) -> pyte.HistoryScreen:
        """The terminal after all of it."""
        screen = pyte.HistoryScreen(COLUMNS, ROWS, history=10_000)
        stream = pyte.Stream(screen)
        for _, text in self.events:
            stream.feed(text)
        return screen


def play(scene: Scene, home: Path) -> Recorder:
    """Type a scene into a shell, with a home of its own, and wait for its end."""
    environment = {
        "HOME": str(home), "TERM": "xterm-256color", "PS1": "$ ", "LANG": "C.UTF-8", "PROMPT_TOOLKIT_NO_CPR": "1",
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
    }  # fmt: skip
    (home / "examples").symlink_to(ROOT / "examples")
    shell = pexpect.spawn(
        "bash", ["--norc", "--noprofile"], env=environment, cwd=str(home), dimensions=(ROWS, COLUMNS),
        encoding="utf-8", timeout=WAIT_S, echo=True,
    )  # fmt: skip
    shell.expect(PROMPT)
    recorder = Recorder()
    recorder.write("$ ")
    shell.logfile_read = recorder
    type_in(shell, scene.command)
    for line in scene.typed:
        shell.expect(CHAT_PROMPT)
        time.sleep(1)
        type_in(shell, line)
    shell.expect(PROMPT)
    shell.logfile_read = None
    shell.close(force=True)
    return recorder


def type_in(shell: pexpect.spawn, line: str) -> None:
    """Type a line a key at a time."""
    for key in line:
        shell.send(key)
        time.sleep(KEY_S)
        shell.expect(r".", timeout=5)
    shell.send("\r")


def drawn(screen: pyte.HistoryScreen) -> Iterator[Text]:
    """Every line with its colours."""
    for row in (*screen.history.top, *(screen.buffer[y] for y in range(screen.lines))):
        line = Text()
        for style, chars in groupby((row[x] for x in range(screen.columns)), _style):
            line.append("".join(char.data for char in chars), style)
        line.rstrip()
        yield line


def _style(char: pyte.screens.Char) -> Style:
    return Style(color=_color(char.fg), bold=char.bold, reverse=char.reverse)


def _color(name: str) -> str | None:
    named = {"default": None, "brown": "yellow"}
    return named.get(name, f"#{name}" if len(name) == 6 and set(name) <= set("0123456789abcdef") else name)


def svg(recorder: Recorder, title: str) -> str:
    """The last screen as a picture."""
    lines = list(drawn(recorder.screen()))
    while lines and not lines[-1].plain.strip():
        lines.pop()
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor")
        for line in lines:
            console.print(line, no_wrap=True, crop=True)
        picture = console.export_svg(title=title, unique_id=title.replace(" ", "-"))
    # Who looks at it fetches no font from anywhere.
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.S)


def main(names: list[str]) -> None:
    """Record the scenes that are named, or all."""
    FOLDER.mkdir(exist_ok=True)
    for scene in SCENES:
        if names and scene.name not in names:
            continue
        with tempfile.TemporaryDirectory() as home:
            recorder = play(scene, Path(home))
        (FOLDER / f"{scene.name}.cast").write_text(recorder.cast(scene.command), encoding="utf-8")
        (FOLDER / f"{scene.name}.svg").write_text(svg(recorder, f"antangel {scene.name}"), encoding="utf-8")
        sys.stdout.write(f"{scene.name}: {recorder.events[-1][0]:.1f} s, {len(recorder.events)} pieces\n")


if __name__ == "__main__":
    main(sys.argv[1:])
