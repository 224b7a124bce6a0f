"""How long the next turn of a chat waits for its first token: `python -m bench.conversation [MODEL]`.

With and without the blocks of the turns before, at three lengths of history, one after the other on the same cores;
nano's pack unless told otherwise. The last tokens of a history are a reply, so what decoding wrote is used again too.
Every round has texts of its own, and both answers must be the same. Writes bench/results/conversation.json.

With `--resume` the turns before were computed by another engine, which wrote its blocks to a file: what writing and
reading it takes, and how long the first token takes with and without it. Writes bench/results/conversation-resume.json.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antangel_cli.files import replace_whole
from bench.decode import packed_nano
from bench.figures import Quantiles
from bench.machine import busy_cores, surroundings
from bench.place import RESULTS
from runtime import Engine, EngineConfig, Request, SamplingParams, Stage

RESULT = RESULTS / "conversation.json"
RESUME_RESULT = RESULTS / "conversation-resume.json"
HISTORIES = (0, 2_000, 8_000)
RESUMED_HISTORIES = (4_000, 8_000)
REPLY, QUESTION, NEW = 64, 48, 8
SAMPLED = SamplingParams(seed=7, ignore_eos=True)


@dataclass(frozen=True)
class Turn:
    """What a turn answered, how long its first token took, and how many of its tokens were in the cache already."""

    tokens: tuple[int, ...]
    ttft_s: float
    shared: int


def turn(engine: Engine, prompt: Sequence[int], count: int) -> Turn:
    """`count` tokens after a prompt, alone."""
    started, times, tokens = time.perf_counter(), [], []
    for event in engine.generate(Request(tuple(prompt), (Stage(SAMPLED, count),))):
        times.append(time.perf_counter() - started)
        tokens.append(event.token_id)
    *_, shared = engine.stats().shared_by_sequence.values()
    return Turn(tuple(tokens), times[0], shared)


def drawn_tokens(count: int, seed: str) -> list[int]:
    """Tokens that stand for a text."""
    drawn = random.Random(seed)
    return [drawn.randrange(300, 3_000) for _ in range(count)]


def said_before(engine: Engine, history: int, seed: int) -> list[int]:
    """A conversation of so many tokens, which ends with a reply of the engine; empty for none."""
    said = drawn_tokens(max(history - REPLY, 0), f"{seed} {history}")
    return [*said, *turn(engine, said, REPLY).tokens] if said else []


def pair(kept: Engine, fresh: Engine, history: int, seed: int) -> tuple[Turn, Turn]:
    """The next turn of one conversation on both engines. Raises RuntimeError where they answer otherwise."""
    said = [*said_before(kept, history, seed), *drawn_tokens(QUESTION, f"{seed} {history} question")]
    order = (kept, fresh) if seed % 2 else (fresh, kept)
    turns = {id(engine): turn(engine, said, NEW) for engine in order}
    with_reuse, without = turns[id(kept)], turns[id(fresh)]
    if with_reuse.tokens != without.tokens:
        raise RuntimeError(f"with {history} tokens of history, the answer depends on what is in the cache")
    return with_reuse, without


def figures(pairs: Sequence[tuple[Turn, Turn]]) -> dict[str, Any]:
    """Both sides of one length of history."""
    return {
        "with_reuse_ttft_ms": Quantiles.of(1000 * kept.ttft_s for kept, _ in pairs).to_json(),
        "without_ttft_ms": Quantiles.of(1000 * fresh.ttft_s for _, fresh in pairs).to_json(),
        "times_as_fast": Quantiles.of(fresh.ttft_s / kept.ttft_s for kept, fresh in pairs).to_json(),
        "shared_tokens": pairs[-1][0].shared,
        "shared_tokens_without": pairs[-1][1].shared,
    }


def run(model: Path, rounds: int, threads: int | None) -> dict[str, Any]:
    """All lengths, a round at a time, after one that is not counted."""
    kept, fresh = (Engine.load(model, EngineConfig(threads=threads, share_prefixes=share)) for share in (True, False))
    pairs: dict[int, list[tuple[Turn, Turn]]] = {history: [] for history in HISTORIES}
    pair(kept, fresh, HISTORIES[1], seed=0)
    for number in range(1, rounds + 1):
        for history, of_history in pairs.items():
            of_history.append(pair(kept, fresh, history, seed=number))
    about = {"model": model.name, "context": kept.context, "kernels": kept.backend, "equal": True}
    for engine in (kept, fresh):
        engine.close()
    return about | {"by_history": {str(history): figures(of) for history, of in pairs.items()}}


@dataclass(frozen=True)
class Resumed:
    """A conversation that another engine goes on with: its file, and the next turn with and without that."""

    write_s: float
    read_s: float
    file_bytes: int
    kept: Turn
    alone: Turn


def resumed(left: Engine, engine: Engine, history: int, seed: int, file: Path) -> Resumed:
    """Raises RuntimeError where the answers differ, or the file was not used."""
    said = said_before(left, history, seed)
    started = time.perf_counter()
    tokens = replace_whole(file, lambda aside: left.write_prefix(aside, said, "bench"))
    write_s = time.perf_counter() - started
    following = [*said, *drawn_tokens(QUESTION, f"{seed} {history} question")]
    forget(engine)
    alone = turn(engine, following, NEW)
    forget(engine)
    started = time.perf_counter()
    engine.read_prefix(file, following, "bench")
    read_s = time.perf_counter() - started
    kept = turn(engine, following, NEW)
    if kept.tokens != alone.tokens or (kept.shared, alone.shared) != (tokens, 0):
        raise RuntimeError(f"with {history} tokens of history, the answer depends on the file, or it is not used")
    return Resumed(write_s, read_s, file.stat().st_size, kept, alone)


def forget(engine: Engine) -> None:
    """Nothing that was computed before is found again, as in a process that begins."""
    engine.replace_routing(None)


def resume_figures(runs: Sequence[Resumed]) -> dict[str, Any]:
    """What a file costs and spares, at one length of history; reading it is a part of the time to the first token."""
    with_file = [run.read_s + run.kept.ttft_s for run in runs]
    return {
        "with_file_ttft_ms": Quantiles.of(1000 * seconds for seconds in with_file).to_json(),
        "without_ttft_ms": Quantiles.of(1000 * run.alone.ttft_s for run in runs).to_json(),
        "times_as_fast": Quantiles.of(
            run.alone.ttft_s / seconds for run, seconds in zip(runs, with_file, strict=True)
        ).to_json(),
        "write_ms": Quantiles.of(1000 * run.write_s for run in runs).to_json(),
        "read_ms": Quantiles.of(1000 * run.read_s for run in runs).to_json(),
        "file_bytes": runs[-1].file_bytes,
        "shared_tokens": runs[-1].kept.shared,
    }


def run_resumed(model: Path, rounds: int, threads: int | None, folder: Path) -> dict[str, Any]:
    """Both lengths, a round at a time, after one that is not counted."""
    left, engine = (Engine.load(model, EngineConfig(threads=threads)) for _ in range(2))
    runs: dict[int, list[Resumed]] = {history: [] for history in RESUMED_HISTORIES}
    resumed(left, engine, RESUMED_HISTORIES[0], 0, folder / "kept")
    for number in range(1, rounds + 1):
        for history, of_history in runs.items():
            of_history.append(resumed(left, engine, history, number, folder / "kept"))
    about = {"model": model.name, "context": engine.context, "kernels": engine.backend, "equal": True}
    for each in (left, engine):
        each.close()
    return about | {"by_history": {str(history): resume_figures(of) for history, of in runs.items()}}


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, help="a pack or a checkpoint whose context holds 8,200 tokens")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--resume", action="store_true", help="measure a session that is resumed")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    about = surroundings() | {"rounds": options.rounds, "reply_tokens": REPLY, "question_tokens": QUESTION}
    about["busy_cores_before"] = busy_cores()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or packed_nano(Path(folder) / "nano")
        if options.resume:
            content = about | run_resumed(model, options.rounds, options.threads, Path(folder))
        else:
            content = about | run(model, options.rounds, options.threads)
    content["busy_cores_after"] = busy_cores()
    output = options.output or (RESUME_RESULT if options.resume else RESULT)
    output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(content["by_history"], indent=1))


if __name__ == "__main__":
    main()
