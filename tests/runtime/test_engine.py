from __future__ import annotations

import codecs
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import torch

import runtime
from runtime.config import EngineConfig, ModelConfig
from runtime.engine import Engine
from runtime.errors import CapacityError, ContextError, GrammarError
from runtime.request import NO_TOKEN, Request, Stage, TokenEvent
from runtime.sampling import SamplingParams
from runtime.template import Message
from runtime.tokenizer import Tokenizer
from tests.runtime.scripted import ScriptedModel
from tests.runtime.tiny import make_tiny_checkpoint, tiny_config, tokenizer_json

TOKENIZER = Tokenizer(tokenizer_json())
CONFIG = EngineConfig(block_size=16, kv_blocks=64, max_batch_tokens=64, max_sequences=8)
GREEDY = SamplingParams(temperature=0, repetition_penalty=1)
FREE = SamplingParams(temperature=1.0, top_k=50, seed=3, ignore_eos=True)
ENDLESS = replace(GREEDY, ignore_eos=True)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "differential": {
            "type": "array",
            "minItems": 1,
            "maxItems": 3,
            "items": {
                "type": "object",
                "properties": {
                    "fact_ids": {"type": "array", "items": {"enum": ["F1", "F2", "F12"]}, "maxItems": 2},
                    "likelihood": {"enum": ["very_likely", "likely", "possible", "unlikely"]},
                },
                "required": ["fact_ids", "likelihood"],
                "additionalProperties": False,
            },
        },
        "urgency": {"enum": ["emergency", "urgent", "soon"]},
    },
    "required": ["differential", "urgency"],
    "additionalProperties": False,
}
REASON = Stage(replace(FREE, temperature=2.0), 12, prefix="\n<think>\n", stop=("</think>", "e"))
ANSWER = Stage(GREEDY, 100, prefix="\n</think>\n\n", schema=SCHEMA)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def scripted(config: EngineConfig = CONFIG, **options: Any) -> Engine:
    model_config = ModelConfig.from_dict(tiny_config(num_key_value_heads=1, head_dim=128))
    model = ScriptedModel(model_config.vocab_size)
    return Engine(model, model_config, TOKENIZER, config, **options)


def prompt(text: str = "Hello", **options: Any) -> tuple[int, ...]:
    return tuple(TOKENIZER.render([Message("user", text)], **options))


def ask(max_tokens: int = 10, params: SamplingParams = FREE, text: str = "Hello", **stage: Any) -> Request:
    return Request(prompt(text), (Stage(params, max_tokens, **stage),))


def run(engine: Engine, requests: list[Request]) -> list[list[TokenEvent]]:
    """All requests at once; the events of each."""
    ids = [engine.submit(request) for request in requests]
    events: dict[int, list[TokenEvent]] = {i: [] for i in ids}
    while engine.has_work:
        for event in engine.step():
            events[event.sequence_id].append(event)
        engine.check_integrity()
    assert engine.stats().kv_blocks_free == engine.stats().kv_blocks_total
    return [events[i] for i in ids]


def text_of(events: list[TokenEvent], stage: int | None = None) -> str:
    return "".join(event.text for event in events if stage in (None, event.stage))


def told(events: list[TokenEvent]) -> list[tuple[Any, ...]]:
    """Events without the sequence's number."""
    return [(e.stage, e.token_id, e.text, e.finish, e.stage_finish, e.error) for e in events]


MIXED = [
    ask(9),
    ask(30, replace(FREE, seed=8, temperature=1.7), text="A longer question about 胸痛 and fever. " * 3),
    Request(prompt("case"), (REASON, ANSWER)),
    ask(40, ENDLESS, text="x"),
    Request(prompt("another case " * 5), (replace(REASON, stop=()), ANSWER)),
    ask(25, replace(FREE, top_k=0, top_p=0.9, seed=1), text="last"),
]


def engines(kind: str, checkpoint: Path, config: EngineConfig, **options: Any) -> Engine:
    return scripted(config, **options) if kind == "scripted" else Engine.load(checkpoint, config, **options)


@pytest.mark.parametrize("kind", ["scripted", "model"])
def test_alone_chunked_and_preempted_are_the_same_as_together(kind: str, checkpoint: Path) -> None:
    together = engines(kind, checkpoint, CONFIG)
    expected = [told(events) for events in run(together, MIXED)]
    alone = engines(kind, checkpoint, CONFIG)
    assert [told(run(alone, [request])[0]) for request in MIXED] == expected
    chunked = engines(kind, checkpoint, replace(CONFIG, max_batch_tokens=7))
    assert [told(events) for events in run(chunked, MIXED)] == expected
    crowded = engines(kind, checkpoint, replace(CONFIG, kv_blocks=13, max_batch_tokens=16))
    assert [told(events) for events in run(crowded, MIXED)] == expected
    assert together.stats().preemptions == alone.stats().preemptions == 0
    assert crowded.stats().preemptions > 0
    assert together.stats().peak_running == len(MIXED)
    assert alone.stats().peak_running == 1


@pytest.mark.parametrize("kind", ["scripted", "model"])
def test_forced_tokens_change_nothing_but_the_number_of_steps(kind: str, checkpoint: Path) -> None:
    quick, slow = (engines(kind, checkpoint, CONFIG, use_forced=use) for use in (True, False))
    requests = [replace(MIXED[2], prompt_ids=prompt(f"case {i}")) for i in range(4)]
    assert [told(e) for e in run(quick, requests)] == [told(e) for e in run(slow, requests)]
    shorter = [replace(MIXED[2], stages=(replace(ANSWER, max_tokens=n),)) for n in range(1, 60, 7)]
    assert [told(e) for e in run(quick, shorter)] == [told(e) for e in run(slow, shorter)]
    assert quick.stats().forced_tokens > 40
    assert slow.stats().forced_tokens == 0
    assert quick.stats().masks < slow.stats().masks


@pytest.mark.parametrize("kind", ["scripted", "model"])
def test_constrained_output_is_always_valid(kind: str, checkpoint: Path) -> None:
    hot = Stage(SamplingParams(temperature=3.0, top_k=0, top_p=1.0), 200, schema=SCHEMA)
    requests = [Request(prompt(f"{i}"), (replace(hot, params=replace(hot.params, seed=i)),)) for i in range(8)]
    engine = engines(kind, checkpoint, replace(CONFIG, kv_blocks=400))
    answers = []
    for events in run(engine, requests):
        assert events[-1].finish == "stop"
        answers.append(text_of(events))
        jsonschema.validate(json.loads(answers[-1]), SCHEMA)
    assert len(set(answers)) > 4
    stats = engine.stats()
    assert 0 < stats.masks_overlapped <= stats.masks


def test_streamed_text_is_the_decoded_text(checkpoint: Path) -> None:
    for events in run(Engine.load(checkpoint, CONFIG), [ask(60), ask(60, replace(FREE, temperature=9, top_k=0))]):
        ids = [event.token_id for event in events]
        data = b"".join(map(TOKENIZER.token_bytes, ids))
        decoded = TOKENIZER.decode(ids)
        assert len(ids) == 60
        assert decoded.startswith(text_of(events))
        assert len(data) - len(text_of(events).encode()) < 4 or "\ufffd" in decoded


def test_a_newcomer_has_its_first_token_before_the_others_end() -> None:
    engine = scripted(replace(CONFIG, max_batch_tokens=8))
    first = engine.submit(ask(60))
    seen: list[TokenEvent] = []
    for _ in range(12):
        seen += engine.step()
    second = engine.submit(ask(3, text="a newcomer with a longer prompt than one chunk " * 2))
    while engine.has_work:
        seen += engine.step()
    order = [(e.sequence_id, bool(e.finish)) for e in seen]
    assert order.index((second, False)) < order.index((second, True)) < order.index((first, True))
    gap = [e.sequence_id for e in seen[: order.index((second, False))]].count(first)
    assert gap > 12
    assert set(engine.stats().ttft_seconds) == {first, second}


def stage_tokens(engine: Engine, request: Request) -> list[tuple[int, ...]]:
    """What the sequence holds after each step."""
    sequence_id, held = engine.submit(request), []
    while engine.has_work:
        engine.step()
        if sequence_id in engine._scheduler:
            held.append(tuple(engine._scheduler[sequence_id].token_ids))
    return held


def tokens_at_stage(engine: Engine, request: Request, stage: int) -> list[int]:
    """What the sequence holds when a stage begins, its prefix included."""
    sequence_id = engine.submit(request)
    while engine._generations[sequence_id].index < stage:
        engine.step()
    held = list(engine._scheduler[sequence_id].token_ids)
    seen = engine._generations[sequence_id].row().seen
    assert seen is not None
    assert set(seen.tolist()) == set(held)
    engine.abort(sequence_id)
    return held


def test_stages_follow_each_other_on_one_sequence() -> None:
    request = Request(prompt(), (REASON, ANSWER))
    events = run(scripted(), [request])[0]
    ends = [(e.stage, e.stage_finish, e.finish) for e in events if e.stage_finish]
    assert [end[0] for end in ends] == [0, 1]
    assert ends[0][2] is None
    assert ends[1][1:] == ("stop", "stop")
    final = stage_tokens(scripted(), request)[-1]
    written = TOKENIZER.decode(final)
    kept = TOKENIZER.decode(request.prompt_ids) + "\n<think>\n" + text_of(events, 0) + "\n</think>\n\n"
    assert "\ufffd" in written or written.startswith(kept)
    assert '{"differential":' in written


@pytest.mark.parametrize("seed", range(12))
def test_a_stop_string_leaves_exactly_the_text_before_it(seed: int) -> None:
    params = replace(FREE, seed=seed, temperature=1.5)
    free = run(scripted(), [ask(20, params)])[0]
    data = b"".join(TOKENIZER.token_bytes(e.token_id) for e in free)
    text = data.decode("utf-8", errors="ignore")
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    if stop.encode() not in data:
        stop = text[-1]
    first = Stage(params, 20, stop=(stop,))
    engine = scripted()
    strict = Stage(replace(ENDLESS, repetition_penalty=50.0), 12)
    request = Request(prompt(), (first, replace(strict, prefix="<role>")))
    before = data[: data.index(stop.encode())]
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(before)
    before = before[: len(before) - len(decoder.getstate()[0])]
    after = tokens_at_stage(engine, request, 1)
    assert after[-1:] == TOKENIZER.encode_trusted("<role>")
    generated = after[len(request.prompt_ids) : -1]
    assert b"".join(map(TOKENIZER.token_bytes, generated)) == before
    # Cache and penalty know nothing of what was cut: the rest is as if that had been the prompt.
    fresh = Request(tuple(after), (strict,))
    cut = run(scripted(), [request])[0]
    assert [e.token_id for e in cut if e.stage == 1] == [e.token_id for e in run(scripted(), [fresh])[0]]
    assert text_of(cut, 0) == text


def test_an_end_of_turn_token_ends_a_stage_and_is_not_kept() -> None:
    engine = scripted()
    model = engine._model
    assert isinstance(model, ScriptedModel)
    eos = TOKENIZER.encode_trusted("<|role_end|>")[0]
    boosted = model._row

    def row(h: int) -> torch.Tensor:
        logits = boosted(h)
        logits[eos] = 100.0 if h % 3 == 0 else -100.0
        return logits

    model._row = row  # type: ignore[method-assign]
    request = Request(prompt(), (Stage(GREEDY, 50, prefix="a"), Stage(GREEDY, 50, prefix="b")))
    held = stage_tokens(engine, request)
    assert all(eos not in tokens[len(request.prompt_ids) :] for tokens in held)
    events = run(engine, [request])[0]
    assert [(e.token_id == eos, e.stage_finish) for e in events if e.stage_finish] == [(True, "stop")] * 2
    assert eos in [e.token_id for e in run(engine, [ask(30, ENDLESS)])[0][:-1]]


def test_lengths_are_exact() -> None:
    events = run(scripted(), [ask(7), ask(1)])
    assert [len(e) for e in events] == [7, 1]
    assert [e[-1].finish for e in events] == ["length", "length"]


def test_a_stage_cut_by_length_goes_on_with_the_next() -> None:
    events = run(scripted(), [Request(prompt(), (Stage(FREE, 4), Stage(FREE, 3, prefix="\n")))])[0]
    assert [e.stage_finish for e in events if e.stage_finish] == ["length", "length"]
    assert [e.stage for e in events] == [0] * 4 + [1] * 3


def test_abort_frees_every_block_at_once() -> None:
    engine = scripted()
    running, waiting = engine.submit(ask(40)), engine.submit(ask(40))
    engine.step()
    assert engine.stats().kv_blocks_free < engine.stats().kv_blocks_total
    engine.abort(running)
    engine.abort(waiting)
    engine.abort(waiting)
    assert engine.stats().kv_blocks_free == engine.stats().kv_blocks_total
    engine.check_integrity()
    assert [(e.sequence_id, e.finish, e.token_id) for e in engine.step()] == [
        (running, "abort", NO_TOKEN),
        (waiting, "abort", NO_TOKEN),
    ]
    assert not engine.has_work


def test_closing_the_iterator_aborts() -> None:
    engine = scripted()
    stream = engine.generate(ask(40))
    next(stream)
    assert engine.has_work
    stream.close()
    assert not engine.has_work
    assert engine.stats().kv_blocks_free == engine.stats().kv_blocks_total
    assert engine.step() == []
    unread = engine.generate(ask(5))
    del unread
    assert not engine.has_work


def test_iterators_and_steps_share_the_engine() -> None:
    expected = [[e.token_id for e in events] for events in run(scripted(), MIXED[:3])]
    engine = scripted()
    one, two = engine.generate(MIXED[0]), engine.generate(MIXED[1])
    third = engine.submit(MIXED[2])
    first = [next(one).token_id]
    second = [e.token_id for e in two]
    first += [e.token_id for e in one]
    rest = []
    while engine.has_work:
        rest += engine.step()
    assert [first, second, [e.token_id for e in rest if e.sequence_id == third]] == expected


def test_timeouts_end_a_request_with_the_text_so_far() -> None:
    engine = scripted()
    late = engine.submit(replace(ask(40), timeout_s=0.0))
    fine = engine.submit(replace(ask(3), timeout_s=60.0))
    events = []
    while engine.has_work:
        events += engine.step()
    assert [(e.finish, e.token_id) for e in events if e.sequence_id == late] == [("timeout", NO_TOKEN)]
    assert [e.finish for e in events if e.sequence_id == fine] == [None, None, "length"]
    engine.check_integrity()


def test_an_error_ends_its_sequence_alone() -> None:
    engine = scripted()
    model = engine._model
    assert isinstance(model, ScriptedModel)
    poison = TOKENIZER.encode_text("患")[0]
    model.poisoned_token = poison
    bad = Request((*prompt(), poison), (Stage(FREE, 5),))
    broken, fine = run(engine, [bad, ask(5, text="ok")])
    assert [e.finish for e in broken] == ["error"]
    assert broken[0].error == "the model gave no usable logits for a token"
    assert fine[-1].finish == "length"
    assert len(fine) == 5


def test_a_grammar_error_ends_its_sequence_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scripted()
    doomed = engine.submit(Request(prompt(), (ANSWER,)))
    fine = engine.submit(ask(5))
    constraint = engine._generations[doomed].constraint
    assert constraint is not None

    def fail() -> torch.Tensor:
        raise GrammarError("the grammar cannot go on", "Simplify it.")

    monkeypatch.setattr(constraint, "mask", fail)
    events = []
    while engine.has_work:
        events += engine.step()
        engine.check_integrity()
    assert [e.error for e in events if e.sequence_id == doomed and e.finish] == ["the grammar cannot go on"]
    assert len([e for e in events if e.sequence_id == fine]) == 5


def test_what_cannot_fit_is_refused_before_it_starts() -> None:
    engine = scripted(replace(CONFIG, context=40))
    with pytest.raises(ContextError) as caught:
        engine.submit(ask(30))
    needed = len(prompt()) + 30
    assert (caught.value.needed, caught.value.available) == (needed, 40)
    assert str(needed) in str(caught.value)
    with pytest.raises(CapacityError):
        scripted(replace(CONFIG, kv_blocks=2)).submit(ask(30))
    with pytest.raises(GrammarError):
        engine.submit(ask(5, schema={"type": "nothing"}))
    assert not engine.has_work
    list(scripted(replace(CONFIG, context=needed)).generate(ask(30)))


@pytest.mark.parametrize("make", [lambda: Request((), (Stage(GREEDY, 1),)), lambda: Request((1,), ())])
def test_empty_requests_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="give at least one"):
        make()


def test_a_perfect_draft_is_counted_as_such() -> None:
    engine = scripted(measure_mtp=False)
    model = engine._model
    assert isinstance(model, ScriptedModel)
    model.has_mtp = True
    measured = Engine(model, engine.model_config, TOKENIZER, replace(CONFIG, max_batch_tokens=7), measure_mtp=True)
    requests = [ask(12, ENDLESS), ask(9, ENDLESS, text="another"), ask(9)]
    events = run(measured, requests)
    stats = measured.stats()
    assert (stats.mtp_drafts, stats.mtp_hits) == (11 + 8, 11 + 8)
    assert stats.mtp_acceptance == 1.0
    assert [told(e) for e in events] == [told(e) for e in run(scripted(), requests)]


def test_drafts_of_the_real_layer_change_nothing(checkpoint: Path) -> None:
    measured, plain = (Engine.load(checkpoint, CONFIG, measure_mtp=m) for m in (True, False))
    requests = [ask(12, ENDLESS), MIXED[2], ask(9)]
    assert [told(e) for e in run(measured, requests)] == [told(e) for e in run(plain, requests)]
    assert measured.stats().mtp_drafts == 11
    assert plain.stats().mtp_acceptance is None


def test_statistics_add_up() -> None:
    engine = scripted(replace(CONFIG, max_batch_tokens=128))
    requests = [ask(6), ask(4, text="more")]
    run(engine, requests)
    stats = engine.stats()
    assert stats.prompt_tokens + stats.shared_tokens == sum(len(r.prompt_ids) for r in requests)
    assert stats.shared_tokens > 0
    assert stats.generated_tokens == 10
    assert stats.decode_tokens in (7, 8)
    assert stats.decode_seconds > 0
    assert stats.prefill_seconds > 0
    assert stats.peak_running == 2


def test_loading_reports_progress_and_closing_aborts(checkpoint: Path) -> None:
    seen: list[tuple[int, int]] = []
    engine = Engine.load(checkpoint, CONFIG, lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0
    assert seen == sorted(seen)
    engine.submit(ask(5))
    engine.close()
    assert engine.stats().kv_blocks_free == engine.stats().kv_blocks_total
    sized = Engine.load(checkpoint, replace(CONFIG, kv_blocks=None))
    assert sized.stats().kv_blocks_total * CONFIG.block_size >= sized.context


def test_no_text_in_any_repr() -> None:
    request = Request((4711, 4712), (Stage(GREEDY, 5, prefix="SECRET", schema={"SECRET": 1}),))
    assert "SECRET" not in repr(request)
    assert "4711" not in repr(request)
    assert "SECRET" not in repr(TokenEvent(1, 0, 4711, "SECRET"))


def test_importing_the_package_is_cheap_and_its_names_are_there() -> None:
    code = "import runtime, sys; assert 'torch' not in sys.modules; runtime.Message; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(runtime.__file__).parents[1])
    for name in runtime.__all__:
        found = getattr(runtime, name)
        assert isinstance(found, int | dict) or found.__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = runtime.nothing
