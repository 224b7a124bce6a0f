from __future__ import annotations

import json
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from runtime import grammar
from runtime.errors import GrammarError
from runtime.grammar import CACHED_GRAMMARS, GrammarCompiler, begin_masks
from runtime.tokenizer import Tokenizer
from tests.runtime.tiny import tokenizer_json

TOKENIZER = Tokenizer(tokenizer_json())
VOCAB_SIZE = 832
STOP = (539, 542)


def listed(item: dict[str, Any], least: int = 1, most: int = 3) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": least, "maxItems": most}


def record(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


FACT = record(fact_id={"enum": ["F1", "F2", "F10"]}, why={"enum": ["fits", "does not fit", "发热"]})
SCHEMA = record(
    differential=listed(record(name={"enum": ["flu", "measles"]}, supporting=listed(FACT, 0, 2))),
    cant_miss={"type": "boolean"},
    urgency={"enum": ["emergency", "urgent", "soon"]},
)


@pytest.fixture
def compiler() -> GrammarCompiler:
    return GrammarCompiler(TOKENIZER, VOCAB_SIZE, STOP)


def walk(compiler: GrammarCompiler, seed: int, use_forced: bool) -> list[int]:
    """A random walk; forced tokens are taken over, or chosen from masks like all others."""
    constraint, choice, ids = compiler.constraint(SCHEMA), random.Random(seed), []
    while not constraint.finished:
        forced = constraint.forced() if use_forced else []
        if not forced:
            allowed = constraint.mask().nonzero()[:, 0].tolist()
            # A walk draws only where there is a choice, so that both walks draw alike.
            forced = [allowed[0] if len(allowed) == 1 else choice.choice(allowed)]
        for token_id in forced:
            constraint.accept(token_id)
            ids.append(token_id)
    return ids


@pytest.mark.parametrize("seed", range(12))
def test_every_walk_is_valid_compact_json_and_forced_tokens_change_nothing(
    compiler: GrammarCompiler, seed: int
) -> None:
    ids = walk(compiler, seed, use_forced=True)
    assert walk(compiler, seed, use_forced=False) == ids
    text = TOKENIZER.decode(ids)
    answer = json.loads(text)
    jsonschema.validate(answer, SCHEMA)
    assert text == json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
    assert list(answer) == list(SCHEMA["properties"])


def test_masks_cover_the_models_rows_and_exclude_padding_and_special_ids(compiler: GrammarCompiler) -> None:
    constraint = compiler.constraint(record(text={"type": "string"}))
    for token_id in constraint.forced():
        constraint.accept(token_id)
    constraint.accept(TOKENIZER.encode_text('"')[0])
    mask = constraint.mask()
    assert mask.shape == (VOCAB_SIZE,)
    assert mask.sum() > 100
    assert not mask[TOKENIZER.size :].any()
    assert not mask[sorted(TOKENIZER.special_ids)].any()


def test_an_enum_excludes_what_the_case_does_not_have(compiler: GrammarCompiler) -> None:
    constraint = compiler.constraint(record(id={"enum": ["F1", "F2"]}))
    for token_id in constraint.forced():
        constraint.accept(token_id)
    allowed = {TOKENIZER.decode([i]) for i in constraint.mask().nonzero()[:, 0].tolist()}
    assert allowed == {"1", "2"}
    with pytest.raises(GrammarError) as caught:
        constraint.accept(TOKENIZER.encode_text("9")[0])
    assert "F1" not in str(caught.value)


def test_an_unusable_schema_is_refused(compiler: GrammarCompiler) -> None:
    with pytest.raises(GrammarError, match="cannot be compiled"):
        compiler.constraint({"type": "object", "properties": {"a": {"type": "no such type"}}})


def test_constraints_are_independent_and_grammars_are_kept(compiler: GrammarCompiler) -> None:
    first, second = compiler.constraint(SCHEMA), compiler.constraint(SCHEMA)
    first.accept(first.forced()[0])
    assert second.forced()[0] == compiler.constraint(SCHEMA).forced()[0]
    assert first.forced() != second.forced()
    assert len(compiler._compiled) == 1
    for i in range(CACHED_GRAMMARS + 3):
        compiler.constraint(record(**{f"p{i}": {"type": "boolean"}}))
    assert len(compiler._compiled) == CACHED_GRAMMARS


def test_an_end_of_turn_that_the_tokenizer_lacks_is_left_out() -> None:
    compiler = GrammarCompiler(TOKENIZER, VOCAB_SIZE, (*STOP, TOKENIZER.size, VOCAB_SIZE - 1))
    assert compiler.constraint(record(a={"type": "boolean"})).forced()


def test_property_order_is_part_of_the_grammar(compiler: GrammarCompiler) -> None:
    ab = compiler.constraint(record(a={"type": "boolean"}, b={"type": "boolean"}))
    ba = compiler.constraint(record(b={"type": "boolean"}, a={"type": "boolean"}))
    assert ab.forced() != ba.forced()


@pytest.fixture(params=[True, False], ids=["at once", "handed over"])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether masks are made where they are begun, or by a thread."""
    monkeypatch.setattr(grammar, "AT_ONCE", 1 << 30 if request.param else 0)
    return bool(request.param)


def test_only_masks_of_many_ids_are_handed_over(compiler: GrammarCompiler, at_once: bool) -> None:
    class Watching(ThreadPoolExecutor):
        begun = 0

        def submit(self, *given: Any, **named: Any) -> Any:
            self.begun += 1
            return super().submit(*given, **named)

    with Watching(1) as executor:
        begin_masks([compiler.constraint(SCHEMA)], executor)
    assert executor.begun == (0 if at_once else 1)


@pytest.mark.usefixtures("at_once")
def test_a_mask_can_be_computed_in_a_thread(compiler: GrammarCompiler) -> None:
    constraint, direct = compiler.constraint(SCHEMA), compiler.constraint(SCHEMA)
    with ThreadPoolExecutor(1) as executor:
        begin_masks([constraint], executor)
        assert constraint.mask().equal(direct.mask())
        begin_masks([constraint], executor)
        deadline = time.monotonic() + 5
        while not constraint.mask_ready:
            assert time.monotonic() < deadline
    assert not direct.mask_ready


@pytest.mark.usefixtures("at_once")
def test_masks_computed_together_are_those_computed_apart(compiler: GrammarCompiler) -> None:
    schemas = [SCHEMA, record(a={"type": "boolean"}), record(text={"type": "string"})]
    together, apart = ([compiler.constraint(schema) for schema in schemas] for _ in range(2))
    together[1].accept(together[1].forced()[0])
    apart[1].accept(apart[1].forced()[0])
    with ThreadPoolExecutor(1) as executor:
        begin_masks(together, executor)
        masks = [constraint.mask() for constraint in together]
    assert all(mask.equal(constraint.mask()) for mask, constraint in zip(masks, apart, strict=True))
    assert len({mask.numpy().tobytes() for mask in masks}) > 1
    assert not any(constraint.mask_ready for constraint in together)


@pytest.mark.usefixtures("at_once")
def test_an_error_among_masks_is_that_of_its_grammar_alone(compiler: GrammarCompiler) -> None:
    broken, whole = compiler.constraint(SCHEMA), compiler.constraint(SCHEMA)
    with pytest.raises(GrammarError):
        broken.accept(0)
    with ThreadPoolExecutor(1) as executor:
        begin_masks([broken, whole], executor)
        with pytest.raises(GrammarError):
            broken.mask()
        assert whole.mask().equal(compiler.constraint(SCHEMA).mask())


def test_python_runs_while_masks_are_computed(compiler: GrammarCompiler) -> None:
    """llguidance gives up Python's lock; with no forced switches nothing else would let the other thread on."""
    constraint, turns, stop = compiler.constraint(record(text={"type": "string"})), [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            turns[0] += 1
            time.sleep(0)

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=count)
    try:
        sys.setswitchinterval(100)
        thread.start()
        before, deadline = turns[0], time.monotonic() + 10
        while turns[0] < before + 5 and time.monotonic() < deadline:
            constraint._matcher.compute_bitmask()
        assert turns[0] >= before + 5
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        thread.join()
