"""What the clinic asks of a model, in the words of the runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from antangel_cli.clinic.model import Stage, Task, Turn
from antangel_cli.clinic.prompt import THINK_CLOSE, THINK_OPEN

if TYPE_CHECKING:
    import runtime


def request_stages(task: Task) -> list[tuple[Stage, runtime.Stage]]:
    """The runtime's stages of a task, each with the name the clinic knows it by."""
    import runtime

    sampling = task.sampling
    free = runtime.SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        repetition_penalty=sampling.repetition_penalty,
        seed=sampling.seed,
    )
    if task.schema is None:
        return [("text", runtime.Stage(free, task.text_tokens))]
    greedy = runtime.SamplingParams(temperature=0.0, repetition_penalty=1.0, seed=sampling.seed)
    if task.text_tokens == 0:
        return [("answer", runtime.Stage(greedy, task.answer_tokens, schema=task.schema))]
    reasoning = runtime.Stage(free, task.text_tokens, prefix=THINK_OPEN, stop=(THINK_CLOSE.rstrip("\n"), "</think>"))
    answer = runtime.Stage(greedy, task.answer_tokens, prefix=THINK_CLOSE, schema=task.schema)
    return [("text", reasoning), ("answer", answer)]


def messages(turns: Sequence[Turn]) -> list[runtime.Message]:
    """A conversation, as the chat template takes it."""
    import runtime

    return [runtime.Message(turn.role, turn.content) for turn in turns]
