"""`antangel about`: what this is, which model answers, and what nobody has reviewed."""

from __future__ import annotations

import json

from antangel_cli import __version__, source
from antangel_cli.clinic.notice import NOTICE, RULES_STATUS
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal


def about(settings: Settings) -> int:
    """Print version, notice, model and the state of the rules."""
    terminal = Terminal.of(settings)
    model, remedy = source.described(settings)
    if settings.json:
        facts = {"version": __version__, "notice": NOTICE, "model": model, "rules": RULES_STATUS}
        terminal.answer(json.dumps(facts, ensure_ascii=False))
        return 0
    terminal.answer(
        "\n\n".join(
            [
                f"antangel {__version__}",
                *NOTICE.values(),
                f"Model: {_line(model)}\n{remedy}".rstrip(),
                *RULES_STATUS.values(),
            ]
        )
    )
    return 0


def _line(model: dict[str, object]) -> str:
    if model["name"] is None:
        return f"none. {model['problem']}"
    kind = "DEMONSTRATION only, not for use on patients" if model["demonstration"] else "configured"
    return f"{model['name']} ({kind}), {model['path']}"
