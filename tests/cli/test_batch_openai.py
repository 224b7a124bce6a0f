"""OpenAI batch requests: answered as `ask` answers, in OpenAI's form, and refused where they ask for more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from antangel_cli import settings as settings_module
from antangel_cli.app import app
from antangel_cli.batching.openai_lines import read_request
from antangel_cli.case_lines import BadLineError
from antangel_cli.clinic.audit import log_file
from antangel_cli.clinic.prompt import load_prompt
from antangel_cli.clinic.schemas import schema
from antangel_cli.lines import Line
from tests.cli.batches import RUN, Record, cases, ids, records, run_batch, use
from tests.cli.scripted import Scripted

URL = "/v1/chat/completions"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return use(monkeypatch, Scripted())


def request(custom_id: Any = "r1", *messages: tuple[str, Any], line: Record | None = None, **body: Any) -> str:
    said = messages or (("user", "What confirms gout?"),)
    content = {"model": "any", "messages": [{"role": role, "content": text} for role, text in said], **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": URL, "body": content, **(line or {})})


def answer(*lines: str, flags: tuple[str, ...] = ()) -> list[Record]:
    return [json.loads(line) for line in run_batch(lines, *flags).stdout.splitlines()]


def test_a_request_is_answered_in_openais_form(model: Scripted) -> None:
    result = run_batch([request()])
    record = json.loads(result.stdout)
    assert result.exit_code == 0, result.stderr
    assert list(record) == ["id", "custom_id", "response", "error", "fingerprint"]
    assert record["id"].startswith("batch_req_")
    assert (record["custom_id"], record["error"]) == ("r1", None)
    assert record["response"]["status_code"] == 200
    assert record["response"]["request_id"].startswith("req_")
    body = record["response"]["body"]
    assert (body["object"], body["model"]) == ("chat.completion", "scripted")
    [choice] = body["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == "You said **gout?**.\n\nSee a clinician."
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    usage = body["usage"]
    assert usage["prompt_tokens"] == model.count(model.tasks[0].turns)
    assert usage["completion_tokens"] == 5
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert body["antangel"]["status"] == "ok"
    assert "1 lines: 1 ok" in result.stderr


def test_the_system_text_is_added_and_replaces_nothing(model: Scripted) -> None:
    said = (
        ("system", "Be brief."),
        ("user", "Gout?"),
        ("assistant", "Yes."),
        ("developer", "In prose."),
        ("user", "Why?"),
    )
    answer(request("r1", *said))
    [task] = model.tasks
    assert task.turns[0].role == "system"
    assert task.turns[0].content == f"{load_prompt('ask', False).system}\n\nBe brief.\n\nIn prose."
    assert [(turn.role, turn.content) for turn in task.turns[1:]] == [
        ("user", "Gout?"), ("assistant", "Yes."), ("user", "Why?"),
    ]  # fmt: skip
    assert task.schema is None


def test_parts_of_text_are_one_message(model: Scripted) -> None:
    answer(request("r1", ("user", [{"type": "text", "text": "Gout?"}, {"type": "text", "text": "Or not?"}])))
    assert model.tasks[0].turns[-1].content == "Gout?\nOr not?"


def test_the_sampling_is_the_requests_own(model: Scripted) -> None:
    own = {"temperature": 0, "top_p": 0.5, "seed": 7, "max_tokens": 30, "max_completion_tokens": 20}
    answer(request("r1", **own), request("r2"), flags=("--temperature", "0.9", "--seed", "3"))
    first, second = model.tasks
    assert (first.sampling.temperature, first.sampling.top_p, first.sampling.seed, first.text_tokens) == (0, 0.5, 7, 20)
    assert (second.sampling.temperature, second.sampling.top_p, second.sampling.seed) == (0.9, 0.95, 3)
    assert second.text_tokens == 2048


def saying(text: str, **options: Any) -> Scripted:
    return Scripted(lambda task: (text, None), **options)


def test_doses_are_withheld_and_checks_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, saying("Give amoxicillin 500 mg now."))
    [record] = answer(
        request("r1", ("user", "Crushing chest pain for one hour with sweating. Allergic to penicillin."))
    )
    body = record["response"]["body"]
    assert "500" not in json.dumps(body["choices"])
    assert "[dose: see formulary]" in body["choices"][0]["message"]["content"]
    checks = body["antangel"]["checks"]
    assert checks["rule_red_flags"]
    assert checks["allergy_conflicts"]
    assert {remark["check"] for remark in checks["answer_remarks"]} >= {"dose_withheld"}
    logged = json.loads(log_file().read_text().splitlines()[-1])
    assert (logged["command"], logged["exit_code"]) == ("batch", 0)
    assert any(name.startswith("red_flag:") for name in logged["fired"])


def test_a_red_flag_in_a_request_is_what_fail_on_looks_at(model: Scripted) -> None:
    assert (
        run_batch(
            [request("r1", ("user", "Crushing chest pain for one hour with sweating."))], "--fail-on", "emergency"
        ).exit_code
        == 10
    )
    assert run_batch([request("r1")], "--fail-on", "emergency").exit_code == 0


def test_a_demonstration_cannot_be_taken_for_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Scripted(demonstration=True))
    result = run_batch([request()])
    body = json.loads(result.stdout)["response"]["body"]
    assert body["model"] == "DEMONSTRATION scripted"
    assert body["antangel"]["status"] == "demonstration"
    assert body["antangel"]["notice"].startswith("DEMONSTRATION")
    assert "1 demonstration" in result.stderr


WORDS = (
    "messages", "role", "content", "type", "text", "temperature", "top_p", "seed", "max_tokens", "n", "stream", "tools",
    "response_format", "stop", "name", "user",
)  # fmt: skip
REFUSED: dict[str, tuple[str, str]] = {
    "method": (request(line={"method": "GET"}), "unsupported_method"),
    "url": (request(line={"url": "/v1/embeddings"}), "unsupported_url"),
    "body": (request(line={"body": "Jones"}), "bad_body"),
    "no messages": (request(messages=[]), "bad_messages"),
    "no user": (request("r1", ("assistant", "Yes.")), "bad_messages"),
    "role": (request("r1", ("Jones", "Gout?")), "bad_messages"),
    "empty": (request("r1", ("user", " ")), "bad_messages"),
    "image": (request("r1", ("user", [{"type": "image_url", "image_url": {"url": "x"}}])), "unsupported_content"),
    "tool": (request(messages=[{"role": "user", "content": "Gout?", "tool_calls": [1]}]), "unsupported_content"),
    "stream": (request(stream=True), "unsupported_parameter"),
    "choices": (request(n=2), "unsupported_parameter"),
    "tools": (request(tools=[{"type": "function"}]), "unsupported_parameter"),
    "format": (request(response_format={"type": "json_object"}), "unsupported_parameter"),
    "unknown": (request(Jones=1), "unsupported_parameter"),
    "temperature": (request(temperature=9), "bad_parameter"),
    "text for a number": (request(seed="7"), "bad_parameter"),
    "truth for a number": (request(seed=True), "bad_parameter"),
    "not finite": (request(temperature=float("nan")), "bad_parameter"),
    "too few": (request(max_tokens=0), "bad_parameter"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_an_error_in_openais_form(name: str, model: Scripted) -> None:
    line, code = REFUSED[name]
    result = run_batch([line])
    record = json.loads(result.stdout)
    assert (record["custom_id"], record["error"], record["line"]) == ("r1", None, 1)
    assert record["response"]["status_code"] == 400
    told = record["response"]["body"]["error"]
    assert (told["code"], told["type"], told["param"]) == (code, "invalid_request_error", None)
    assert "Line 1" in told["message"]
    assert "Jones" not in result.stdout + result.stderr
    assert result.exit_code == 5
    assert model.tasks == []


def test_what_asks_for_nothing_is_taken(model: Scripted) -> None:
    nothing = {
        "n": 1, "stream": False, "tools": [], "functions": None, "response_format": {"type": "text"}, "stop": None,
        "presence_penalty": 0, "logit_bias": {}, "logprobs": False, "user": "u", "metadata": {"a": "b"},
    }  # fmt: skip
    [record] = answer(request(**nothing))
    assert record["response"]["status_code"] == 200, record


def test_requests_fit_the_schema_of_a_line_and_refused_ones_do_not() -> None:
    validator = jsonschema.Draft202012Validator(schema("batch"))
    parts = [{"type": "text", "text": "Gout?"}]
    for line in (request(), request("r1", ("system", "Be brief."), ("user", parts), temperature=0.5, seed=None)):
        validator.validate(json.loads(line))
    for name in (
        "method",
        "url",
        "body",
        "no messages",
        "role",
        "image",
        "temperature",
        "text for a number",
        "too few",
    ):
        assert not validator.is_valid(json.loads(REFUSED[name][0])), name
    assert not validator.is_valid(json.loads(request("Mrs Jones")))


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just("Jones") | st.just("user") | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=12,
)


@given(ANY, ANY, st.sampled_from([*WORDS, "Jones"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_body_holds_it_is_read_or_refused_without_a_word_of_it(value: Any, other: Any, key: str) -> None:
    whole = json.loads(request("r1"))
    for body in (value, {**whole["body"], key: value}, {"messages": [{"role": other, "content": value}, other]}):
        line = Line(1, json.dumps({**whole, "body": body}).encode())
        said = ""
        try:
            found = read_request(line)
        except BadLineError as bad:
            found, said = None, f"{bad.reason.message} {bad.reason.remedy}"
        assert (found is None) == said.startswith("Line 1")
        assert "Jones" not in said
        if found is not None:
            assert found.turns[-1].role == "user"
            assert all(turn.content.strip() for turn in found.turns)


def test_an_id_is_repeated_only_where_it_has_the_form_of_one(model: Scripted) -> None:
    found = answer(request("Mrs Jones"), request(7), request("r1"), request("r1"), *cases(1))
    assert ids(found) == [None, None, "r1", "r1", "c0"]
    codes = [record["response"]["body"].get("error", {}).get("code") for record in found[:4]]
    assert codes == ["bad_id", "bad_id", None, "duplicate_id"]
    assert "Jones" not in json.dumps(found)


@pytest.mark.parametrize(
    ("finish", "status", "code"), [("timeout", 504, "timeout"), ("error", 500, "generation_failed")]
)
def test_a_reply_that_failed_says_how(finish: Any, status: int, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Scripted(finish=finish))
    [record] = answer(request())
    assert record["response"]["status_code"] == status
    told = record["response"]["body"]["error"]
    assert (told["code"], told["type"]) == (code, "server_error")


def test_a_reply_that_was_cut_off_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Scripted(finish="length"))
    [record] = answer(request())
    assert record["response"]["body"]["choices"][0]["finish_reason"] == "length"


def test_what_does_not_fit_is_refused_with_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Scripted(context=1000))
    [record] = answer(request("r1", ("user", "gout " * 2000)))
    assert record["response"]["body"]["error"]["code"] == "too_long"
    assert "and 1000 fit" in record["response"]["body"]["error"]["message"]


def test_a_locked_setting_cannot_be_set_by_a_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Scripted
) -> None:
    system = tmp_path / "system.toml"
    system.write_text('[policy]\nlocked = ["temperature", "system"]\n')
    monkeypatch.setattr(settings_module, "SYSTEM_CONFIG", system)
    found = answer(
        request("r1", temperature=1), request("r2", ("system", "x"), ("user", "y")), request("r3", top_p=0.5)
    )
    assert [record["response"]["status_code"] for record in found] == [403, 403, 200]
    assert [record["response"]["body"].get("error", {}).get("code") for record in found] == ["policy", "policy", None]


def test_redacted_messages_reach_the_model_without_identifiers(model: Scripted) -> None:
    answer(
        request("r1", ("system", "Write to a.b@example.org."), ("user", "Mail a.b@example.org about gout.")),
        flags=("--redact",),
    )
    assert "example.org" not in str([turn.content for turn in model.tasks[0].turns])
    assert "[removed]" in model.tasks[0].turns[-1].content


def test_requests_are_gone_on_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Scripted) -> None:
    out = tmp_path / "out.jsonl"
    lines = [request(f"r{i}", ("user", f"Gout {i}?")) for i in range(4)]

    use(monkeypatch, Scripted(finish="timeout"))
    run_batch(lines[:1], "-o", str(out))
    use(monkeypatch, Scripted())
    run_batch(lines[:2], "-o", str(out), "--resume")
    kept = records(out)
    assert [record["response"]["status_code"] for record in kept] == [200, 200]
    again = use(monkeypatch, Scripted())
    lines[1] = request("r1", ("user", "Another question?"))
    result = run_batch([*lines, *cases(1)], "-o", str(out), "--resume")
    assert result.exit_code == 0, result.stderr
    assert len(again.tasks) == 4
    assert ids(records(out)) == ["r0", "r1", "r2", "r3", "c0"]
    assert records(out)[0] == kept[0]
    assert records(out)[1]["fingerprint"]["input"] != kept[1]["fingerprint"]["input"]


def test_a_request_that_was_answered_counts_for_fail_on_again(tmp_path: Path, model: Scripted) -> None:
    out = tmp_path / "out.jsonl"
    lines = [request("r1", ("user", "Crushing chest pain for one hour with sweating."))]
    for _ in range(2):
        assert run_batch(lines, "-o", str(out), "--resume", "--fail-on", "emergency").exit_code == 10
    assert len(model.tasks) == 1


def test_a_dry_run_checks_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    found = answer(request(), request("r2", stream=True), flags=("--dry-run",))
    assert found[0] == {"schema": "antangel.check/1", "id": "r1", "status": "valid", "line": 1}
    assert found[1]["response"]["body"]["error"]["code"] == "unsupported_parameter"


def test_evaluation_takes_no_requests(model: Scripted, tmp_path: Path) -> None:
    place = tmp_path / "cases.jsonl"
    place.write_text(request() + "\n" + cases(1, gold={"diagnosis": "Acute coronary syndrome"})[0] + "\n")
    result = RUN.invoke(app, ["eval", str(place), "--json"])
    assert result.exit_code == 6
    assert len(model.tasks) == 1
