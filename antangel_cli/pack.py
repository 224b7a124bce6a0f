"""`antangel pack`: make a checkpoint into the form that is mapped and run, or check one that was made."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from antangel_cli import load
from antangel_cli.errors import UsageError
from antangel_cli.meter import Advance
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal

PACK_SCHEMA = "antangel.pack/1"


@dataclass(frozen=True)
class PackOptions:
    """What is packed, where to and in which formats; or which pack is checked."""

    checkpoint: str | None = None
    output: str | None = None
    experts: str | None = None
    dense: str | None = None
    check: str | None = None

    def __post_init__(self) -> None:
        if self.check is None and (self.checkpoint is None or self.output is None):
            raise UsageError("pack needs a checkpoint and -o DIR, or --check DIR.", "See antangel pack -h.")
        others = (self.checkpoint, self.output, self.experts, self.dense)
        if self.check is not None and any(other is not None for other in others):
            raise UsageError("--check DIR checks a pack that is there, and takes nothing else.", "Run the two apart.")

    @property
    def formats(self) -> dict[str, str]:
        """The formats that were asked for."""
        asked = {"experts": self.experts, "dense": self.dense}
        return {part: name for part, name in asked.items() if name is not None}


def pack(settings: Settings, options: PackOptions) -> int:
    """Pack or check, and print what the pack is."""
    terminal = Terminal.of(settings)
    with contextlib.ExitStack() as stack:
        meters = _Meters(terminal, stack)
        try:
            made = _made(options, meters, terminal)
        except KeyboardInterrupt:
            stack.close()
            terminal.remark("Interrupted. The same command goes on from here.")
            raise
    terminal.answer(_record(made) if settings.json else _line(made))
    return 0


def _made(options: PackOptions, meters: _Meters, terminal: Terminal) -> load.MadePack:
    if options.check is not None:
        return load.check_pack(options.check, meters.named("Verifying"))
    assert options.checkpoint is not None
    assert options.output is not None
    return load.write_pack(
        options.checkpoint,
        options.output,
        options.formats,
        packing=meters.named("Packing"),
        verifying=meters.named("Verifying"),
        announce=terminal.remark,
    )


class _Meters:
    """One meter at a time: that of the stage which last told how far it is."""

    def __init__(self, terminal: Terminal, stack: contextlib.ExitStack) -> None:
        self._terminal = terminal
        self._stack = stack
        self._advance: Mapping[str, Advance] = {}

    def named(self, label: str) -> Advance:
        """The meter of a stage; it is shown from its first use on."""

        def advance(done: int, total: int | None) -> None:
            if label not in self._advance:
                self._stack.close()
                self._advance = {label: self._stack.enter_context(self._terminal.meter(label, "bytes"))}
            self._advance[label](done, total)

        return advance


def _record(made: load.MadePack) -> str:
    record: dict[str, Any] = {"schema": PACK_SCHEMA, "status": "ok", **vars(made)}
    return json.dumps(record, ensure_ascii=False)


def _line(made: load.MadePack) -> str:
    formats = ", ".join(f"{part} {name}" for part, name in made.formats.items())
    sums = {part: made.errors.get(f"all of {part}.bin") for part in ("experts", "dense")}
    errors = ", ".join(f"{part} {error:.1%}" for part, error in sums.items() if error is not None)
    cost = f"; quantisation error {errors}" if errors else ""
    return f"{made.directory}: {formats}; {made.bytes / 1e9:.2f} GB, {made.blobs} experts{cost}; every byte verified"
