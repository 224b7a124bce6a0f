"""`/diagnose`: a structured differential of what has been said and loaded, by the model that chats."""

from __future__ import annotations

import json

from antangel_cli.cases import diagnose_options
from antangel_cli.chatting.talk import Conversation
from antangel_cli.clinic.diagnose import DiagnoseRun
from antangel_cli.clinic.writers import write
from antangel_cli.errors import UsageError
from antangel_cli.escapes import clean
from antangel_cli.options import CaseOptions


def diagnose(talk: Conversation) -> None:
    """Answer as `antangel diagnose` does, and print the page; Ctrl-C stops it. Raises InputError."""
    spoken = talk.spoken(*talk.attached)
    if not spoken.facts:
        raise UsageError("There is no case yet.", "Describe it, or load one: /case FILE")
    run = DiagnoseRun(spoken.case, diagnose_options(talk.settings, CaseOptions(doses=talk.doses)), talk.model)
    if not _finish(run, talk):
        talk.terminal.note("Stopped; there is no answer.")
        return
    record, terminal = run.record(), talk.terminal
    if talk.settings.json:
        page = json.dumps(record, ensure_ascii=False)
    else:
        page = clean(write(record, run.case, "text", terminal.plain, terminal.width))
    terminal.answer(page)
    talk.audit.result(record, page, 0)


def _finish(run: DiagnoseRun, talk: Conversation) -> bool:
    """Step the model until the run is done; whether it was let be."""
    tokens = 0
    with talk.terminal.meter("Working", "tokens") as advance:
        while not run.done:
            for piece in talk.model.step():
                run.feed(piece)
                tokens += piece.tokens
            advance(tokens, None)
            if talk.interrupts.asked() and not run.done:
                run.abort()
                return False
    return True
