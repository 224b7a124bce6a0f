"""diagnose, ask, validate, schema and about, with a scripted model."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner, Result

from antangel_cli import load, source
from antangel_cli.app import app
from antangel_cli.chatting.attachment import fenced
from antangel_cli.clinic.notice import DEMONSTRATION, NOTICE
from antangel_cli.errors import PolicyError
from tests.cli.cases import CHEST_PAIN, case_line
from tests.cli.scripted import Scripted, answer_well

RUN = CliRunner()


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return use(monkeypatch, Scripted())


def use(monkeypatch: pytest.MonkeyPatch, scripted: Scripted) -> Scripted:
    monkeypatch.setattr(load, "open_model", lambda settings, advance, sequences=1, announce=None: scripted)
    return scripted


@pytest.fixture
def case(tmp_path: Path) -> str:
    path = tmp_path / "case.json"
    path.write_text(json.dumps(CHEST_PAIN), encoding="utf-8")
    return str(path)


def run(*arguments: str, input: str | bytes | None = None) -> Result:
    return RUN.invoke(app, list(arguments), input=input)


def test_a_page_on_stdout_and_the_checks_first_on_stderr(model: Scripted, case: str) -> None:
    result = run("diagnose", case)
    assert result.exit_code == 0, result.stderr
    assert "Acute coronary syndrome" in result.stdout
    assert NOTICE["en"] in result.stderr
    assert "Red flag" in result.stderr
    assert model.closed


def test_json_is_the_envelope_alone(model: Scripted, case: str) -> None:
    for flags in (["--json"], ["--format", "json"]):
        result = run("diagnose", case, *flags)
        record = json.loads(result.stdout)
        assert (record["schema"], record["id"], record["status"]) == ("antangel.ddx/1", "chest-1", "ok")


def test_reasoning_is_shown_last_and_only_when_asked_for(model: Scripted, case: str) -> None:
    assert "sweating fit" not in run("diagnose", case).stdout
    assert run("diagnose", case, "--reasoning", "show").stdout.rstrip().endswith("The pain and the sweating fit.")
    assert "reasoning" not in json.loads(run("diagnose", case, "--json").stdout)
    shown = json.loads(run("diagnose", case, "--reasoning", "show", "--json").stdout)
    assert shown["reasoning"] == "The pain and the sweating fit."


def test_without_reasoning_none_is_asked_for(model: Scripted, case: str) -> None:
    run("diagnose", case, "--reasoning", "off")
    assert model.tasks[0].text_tokens == 0


def test_flags_reach_the_model(model: Scripted, case: str) -> None:
    flags = [
        "--seed",
        "7",
        "--temperature",
        "0",
        "--top-k",
        "3",
        "--top-p",
        "0.5",
        "--max-tokens",
        "99",
        "--timeout",
        "8",
    ]
    run("diagnose", case, *flags)
    task = model.tasks[0]
    sampling = task.sampling
    assert (sampling.seed, sampling.temperature, sampling.top_k, sampling.top_p) == (7, 0.0, 3, 0.5)
    assert task.text_tokens == 99
    assert task.timeout_s == pytest.approx(8.0, abs=0.5)
    run("diagnose", case, "--max-dx", "3")
    assert model.tasks[1].schema
    assert model.tasks[1].schema["properties"]["differential"]["maxItems"] == 3


def test_stdin_is_read_for_a_dash(model: Scripted) -> None:
    assert run("diagnose", "-", input="Crushing chest pain, sweating.").exit_code == 0
    assert "Crushing chest pain" in model.tasks[0].turns[-1].content


def test_the_demonstration_model_is_never_taken_for_the_real_one(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    use(monkeypatch, Scripted(demonstration=True))
    page = run("diagnose", case, "-q")
    assert page.stdout.splitlines()[0] == DEMONSTRATION["en"]
    assert DEMONSTRATION["en"] in page.stderr
    assert "-m DIR" in page.stderr
    record = json.loads(run("diagnose", case, "--json").stdout)
    assert record["status"] == "demonstration"
    assert record["provenance"]["model"]["demonstration"] is True
    assert json.loads(run("ask", "Fever?", "--json").stdout)["status"] == "demonstration"
    assert run("ask", "Fever?").stdout.splitlines()[0] == DEMONSTRATION["en"]
    assert "DEMONSTRATION" in run("chat", input="Fever?\n").stderr.splitlines()[-1]


def test_a_chinese_case_is_told_in_chinese_which_model_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, Scripted(demonstration=True))
    place = tmp_path / "病例.txt"
    place.write_text("患者男，67岁，胸痛2小时。", encoding="utf-8")
    said = run("diagnose", str(place)).stderr
    assert DEMONSTRATION["zh"] in said
    assert "设置模型：用 -m DIR 指定" in said
    assert "由文字读取：年龄 67岁" in said
    assert "Set a model up" not in said


def test_policy_is_exit_7(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    def refuse(*_: object) -> None:
        raise PolicyError("The demonstration model is forbidden.", "Set one up.")

    monkeypatch.setattr(load, "open_model", refuse)
    assert run("diagnose", case).exit_code == 7


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({**CHEST_PAIN, "nonsense": 1})])
def test_a_rejected_case_is_exit_3_before_the_model_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    monkeypatch.setattr(load, "open_model", lambda *_: pytest.fail("the model was read"))
    path = tmp_path / "bad.json"
    path.write_text(text)
    result = run("diagnose", str(path), "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["error"]["stage"] == "input"


def test_escapes_in_a_case_and_in_an_answer_do_not_reach_the_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nasty(task: object) -> tuple[str, str | None]:
        _, answer = answer_well(task)  # type: ignore[arg-type]
        return "\x1b[31mred", (answer or "").replace("Chest pain.", "\\u001b]0;x\\u0007Pain.")

    use(monkeypatch, Scripted(nasty))
    path = tmp_path / "case.json"
    path.write_text(json.dumps({**CHEST_PAIN, "narrative": "Pain \x1b[2J now, crushing chest pain."}))
    result = run("diagnose", str(path), "--reasoning", "show")
    assert result.exit_code == 0, result.stderr
    assert "\x1b" not in result.stdout + result.stderr


def test_output_is_whole_private_and_not_overwritten(model: Scripted, case: str, tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    assert run("diagnose", case, "-o", str(path)).stdout == ""
    assert "Acute coronary syndrome" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert run("diagnose", case, "-o", str(path)).exit_code == 2
    assert len(model.tasks) == 1
    assert run("diagnose", case, "-o", str(path), "--force", "--json").exit_code == 0
    assert json.loads(path.read_text())["status"] == "ok"
    assert sorted(os.listdir(tmp_path)) == ["case.json", "out.txt"]


def test_stats_are_the_last_line_with_every_key(model: Scripted, case: str) -> None:
    for arguments in (["diagnose", case], ["ask", "Fever?"]):
        stats = json.loads(run(*arguments, "--stats").stderr.splitlines()[-1])
        assert stats["decode_tok_s"] == 10.0
        assert {"bytes_moved", "hit_rate", "ram_peak", "ram_budget", "ttft_ms"} <= set(stats)


@pytest.mark.parametrize(("level", "code"), [("emergency", 10), ("urgent", 10), ("routine", 10)])
def test_fail_on_compares_the_final_urgency(model: Scripted, case: str, level: str, code: int) -> None:
    assert run("diagnose", case, "--fail-on", level).exit_code == code


def test_a_lower_urgency_does_not_fail(model: Scripted) -> None:
    assert run("diagnose", "-", "--fail-on", "emergency", input="Sore thumb since Monday.").exit_code == 0


def test_an_answer_that_is_none_is_exit_5(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    use(monkeypatch, Scripted(lambda task: ("Hm.", "{}")))
    result = run("diagnose", case, "--json")
    assert result.exit_code == 5
    assert json.loads(result.stdout)["status"] == "error"


def test_a_chinese_case_gets_a_chinese_page(model: Scripted) -> None:
    result = run("diagnose", "-", input="患者男，58岁，胸痛一小时，大汗。")
    assert NOTICE["zh"] in result.stderr
    assert "鉴别" in result.stdout


def test_ask_answers_with_red_flags_beneath(model: Scripted) -> None:
    result = run("ask", "Crushing chest pain for one hour with sweating: what is it?")
    assert (result.exit_code, result.stdout) == (0, "You said **it?**.\n\nSee a clinician.\n")
    assert "Red flag" in result.stderr


@pytest.mark.parametrize(
    ("words", "stdin", "wanted"),
    [
        (["Fever?"], "unread", "Fever?"),
        (["-"], "Fever?\n", "Fever?"),
        (["Why?", "-"], "data\n", f"Why?\n\n{fenced('data', chinese=False)}"),
    ],
)
def test_ask_reads_stdin_only_for_a_dash(model: Scripted, words: list[str], stdin: str, wanted: str) -> None:
    assert run("ask", *words, input=stdin).exit_code == 0
    assert model.tasks[0].turns[-1].content == wanted
    assert model.tasks[0].sampling.seed == 0


def test_ask_without_a_question_is_exit_3(model: Scripted) -> None:
    assert run("ask", "-", input=" \n").exit_code == 3


@pytest.mark.parametrize("finish", ["timeout", "error"])
def test_ask_that_fails_is_exit_5(monkeypatch: pytest.MonkeyPatch, finish: str) -> None:
    use(monkeypatch, Scripted(finish=finish))  # type: ignore[arg-type]
    assert run("ask", "Fever?").exit_code == 5


def test_validate_shows_facts_and_warnings(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "open_model", lambda *_: pytest.fail("the model was read"))
    result = run("validate", case)
    assert result.exit_code == 0, result.stderr
    assert "F1" in result.stdout
    assert "58 years, male" in result.stdout
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    both = run("validate", case, str(bad), "--json")
    assert both.exit_code == 3
    good, wrong = (json.loads(line) for line in both.stdout.splitlines())
    assert (good["status"], good["id"], wrong["status"]) == ("valid", "chest-1", "error")
    assert run("validate", case, str(tmp_path / "none")).exit_code == 2


@pytest.mark.parametrize("kind", ["case", "result", "batch"])
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_an_example_fits_its_schema(kind: str, lang: str) -> None:
    schema = json.loads(run("schema", kind).stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    example = json.loads(run("schema", kind, "--example", "--lang", lang).stdout)
    jsonschema.validate(example, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**example, "nonsense": 1}, schema)


def test_the_example_case_can_be_diagnosed(model: Scripted, tmp_path: Path) -> None:
    for lang in ("en", "zh"):
        path = tmp_path / f"{lang}.json"
        assert run("schema", "case", "--example", "--lang", lang, "-o", str(path)).exit_code == 0
        assert run("diagnose", str(path)).exit_code == 0


def test_about_says_what_answers_and_what_nobody_reviewed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(source, "EMBEDDED", tmp_path)
    text = run("about").stdout
    assert NOTICE["en"] in text
    assert "not clinically reviewed" in text
    assert "No model is configured" in text
    (tmp_path / "config.json").write_text("{}")
    assert json.loads(run("about", "--json").stdout)["model"]["demonstration"] is True


def test_lines_of_cases_reach_no_error(model: Scripted, tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    path.write_text(case_line("a", narrative="Mrs Jones", vitals=[{"name": "pulse", "value": {"Jones": 1}}]))
    result = run("diagnose", str(path), "--json", "--debug")
    assert result.exit_code == 3
    assert "Jones" not in result.stdout + result.stderr
