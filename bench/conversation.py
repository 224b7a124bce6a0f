"""How long the next turn of a chat waits for its first token: `python -m bench.conversation [MODEL]`.

With and without the blocks of the turns before, at three lengths of history, one after the other on the same cores;
nano's pack unless told otherwise. The last tokens of a history are a reply, so what decoding wrote is used again too.
Every round has texts of its own, and both answers must be the same. Writes bench/results/conversation.json.
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

from bench.decode import packed_nano
from bench.figures import Quantiles
from bench.machine import busy_cores, surroundings
from bench.place import RESULTS
from runtime import Engine, EngineConfig, Request, SamplingParams, Stage

RESULT = RESULTS / "conversation.json"
HISTORIES = (0, 2_000, 8_000)
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


def pair(kept: Engine, fresh: Engine, history: int, seed: int) -> tuple[Turn, Turn]:
    """The next turn of one conversation on both engines. Raises RuntimeError where they answer otherwise."""
    drawn = random.Random(f"{seed} {history}")
    said = [drawn.randrange(300, 3_000) for _ in range(max(history - REPLY, 0))]
    if said:
        said += turn(kept, said, REPLY).tokens
    said += [drawn.randrange(300, 3_000) for _ in range(QUESTION)]
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


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, help="a pack or a checkpoint whose context holds 8,200 tokens")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("-o", "--output", type=Path, default=RESULT)
    options = parser.parse_args()
    about = surroundings() | {"rounds": options.rounds, "reply_tokens": REPLY, "question_tokens": QUESTION}
    about["busy_cores_before"] = busy_cores()
    with tempfile.TemporaryDirectory() as folder:
        content = about | run(options.model or packed_nano(Path(folder) / "nano"), options.rounds, options.threads)
    content["busy_cores_after"] = busy_cores()
    options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(content["by_history"], indent=1))


if __name__ == "__main__":
    main()
