"""Replay of a result, formats, samples and how long it may take, with a scripted model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from antangel_cli import load
from antangel_cli.app import app
from antangel_cli.clinic.model import Task
from antangel_cli.pace import Pace
from tests.cli.cases import CHEST_PAIN, case_line
from tests.cli.scripted import Scripted, answer_for, answer_well

RUN = CliRunner()
SECRET = "Zyxwvut"


def run(*arguments: str, input: str | None = None) -> Result:
    return RUN.invoke(app, list(arguments), input=input)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return use(monkeypatch, Scripted())


def use(monkeypatch: pytest.MonkeyPatch, scripted: Scripted) -> Scripted:
    monkeypatch.setattr(load, "open_model", lambda settings, advance, sequences=1, announce=None: scripted)
    return scripted


@pytest.fixture
def case(tmp_path: Path) -> str:
    path = tmp_path / "case.json"
    path.write_text(json.dumps({**CHEST_PAIN, "narrative": f"Crushing chest pain, {SECRET}."}), encoding="utf-8")
    return str(path)


def made(tmp_path: Path, case: str, *flags: str) -> str:
    """The file of a result."""
    place = str(tmp_path / "result.json")
    assert run("diagnose", case, "--json", "-o", place, *flags).exit_code == 0
    return place


def test_the_same_again_is_equal_with_the_recorded_options(model: Scripted, tmp_path: Path, case: str) -> None:
    flags = [
        "--seed",
        "5",
        "--temperature",
        "0.3",
        "--max-dx",
        "4",
        "--samples",
        "2",
        "--lang",
        "zh",
        "--max-tokens",
        "77",
    ]
    result = run("diagnose", case, "--replay", made(tmp_path, case, *flags))
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == "相等：再次得到相同结果。"
    then, again = model.tasks[:2], model.tasks[2:]
    for one, other in zip(then, again, strict=True):
        assert (one.turns, one.sampling, one.text_tokens, one.schema) == (
            other.turns, other.sampling, other.text_tokens, other.schema,
        )  # fmt: skip


def test_another_answer_is_6_and_named_without_words(
    monkeypatch: pytest.MonkeyPatch, model: Scripted, tmp_path: Path, case: str
) -> None:
    place = made(tmp_path, case)

    def changed(task: Task) -> tuple[str, str | None]:
        return "No.", json.dumps({**answer_for(task.schema or {}), "summary": "Something else."})

    use(monkeypatch, Scripted(changed))
    page = run("diagnose", case, "--replay", place)
    assert page.exit_code == 6
    assert "Nothing that was recorded has changed." in page.stdout
    assert "  result.summary" in page.stdout
    report = json.loads(run("diagnose", case, "--replay", place, "--json").stdout)
    assert (report["schema"], report["equal"], report["changed"]) == ("antangel.replay/1", False, [])
    assert "result.summary" in report["differences"]
    assert SECRET not in page.stdout + page.stderr + json.dumps(report)


def test_another_case_is_said(model: Scripted, tmp_path: Path, case: str) -> None:
    place = made(tmp_path, case)
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**CHEST_PAIN, "narrative": "Crushing chest pain."}))
    result = run("diagnose", str(other), "--replay", place)
    assert result.exit_code == 6
    assert "Changed since: input" in result.stdout


def test_another_model_runs_only_where_it_was_named(
    monkeypatch: pytest.MonkeyPatch, model: Scripted, tmp_path: Path, case: str
) -> None:
    place = made(tmp_path, case)
    other = use(monkeypatch, Scripted())
    other.provenance["weights"] = "f" * 64
    refused = run("diagnose", case, "--replay", place)
    assert (refused.exit_code, other.tasks) == (2, [])
    assert "another model" in refused.stderr
    named = run("diagnose", case, "--replay", place, "-m", str(tmp_path))
    assert named.exit_code == 6
    assert "Changed since: model" in named.stdout
    assert "only in its provenance" in named.stdout


def test_a_line_of_a_batch_is_replayed(model: Scripted, tmp_path: Path) -> None:
    place = tmp_path / "out.jsonl"
    lines = "\n".join([case_line("a"), "{", case_line("b")])
    assert run("batch", "-o", str(place), "--seed", "3", input=lines).exit_code == 6
    case = tmp_path / "b.json"
    case.write_text(case_line("b"))
    result = run("diagnose", str(case), "--replay", str(place))
    assert result.exit_code == 0, result.stdout + result.stderr


@pytest.mark.parametrize("content", ["", "{", f'{{"schema": "{SECRET}"}}', f"{SECRET} words"])
def test_what_is_no_result_is_refused_before_the_model_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str, content: str
) -> None:
    monkeypatch.setattr(load, "open_model", lambda *_: pytest.fail("the model was read"))
    place = tmp_path / "r.json"
    place.write_text(content)
    result = run("diagnose", case, "--replay", str(place))
    assert result.exit_code == 3
    assert "r.json" in result.stderr
    assert SECRET not in result.stderr
    assert run("diagnose", case, "--replay", str(tmp_path / "none.json")).exit_code == 2


@pytest.mark.parametrize("command", ["diagnose", "batch"])
@pytest.mark.parametrize(
    "flags",
    [
        ["--samples", "0"],
        ["--samples", "17"],
        ["--samples", "2", "--temperature", "0"],
        ["--samples", "2", "--reasoning", "off"],
    ],
)
def test_samples_that_could_not_differ_are_refused(
    monkeypatch: pytest.MonkeyPatch, case: str, command: str, flags: list[str]
) -> None:
    monkeypatch.setattr(load, "open_model", lambda *_: pytest.fail("the model was read"))
    result = run(command, case, *flags)
    assert result.exit_code == 2
    assert "sample" in result.stderr


def test_agreement_is_on_the_page(model: Scripted, case: str) -> None:
    result = run("diagnose", case, "--samples", "3")
    assert "in the top three of 3 of 3 runs" in " ".join(result.stdout.split())
    assert [task.sampling.seed for task in model.tasks] == [0, 1, 2]
    assert model.most_in_flight == 3


def test_batch_samples_each_case_within_its_concurrency(model: Scripted) -> None:
    lines = "\n".join(case_line(i) for i in "abcd")
    result = run("batch", "--samples", "2", "--concurrency", "4", input=lines)
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["agreement"]["completed"] for record in records] == [2, 2, 2, 2]
    assert model.most_in_flight == 4


def starts(format: str, page: str) -> bool:
    if format == "fhir":
        return bool(json.loads(page)["resourceType"] == "Bundle")
    return page.startswith({"text": "Case: chest-1", "md": "- **Case**: chest-1", "json": '{\n  "schema"'}[format])


@pytest.mark.parametrize("format", ["text", "md", "json", "fhir"])
def test_formats_on_stdout_and_in_files_of_any_name(model: Scripted, tmp_path: Path, case: str, format: str) -> None:
    place = tmp_path / "result.md"
    assert starts(format, run("diagnose", case, "--format", format).stdout)
    assert run("diagnose", case, "--format", format, "-o", str(place)).exit_code == 0
    assert starts(format, place.read_text(encoding="utf-8"))


@pytest.mark.parametrize("format", ["text", "md", "json", "fhir"])
def test_flags_hold_in_every_format(model: Scripted, case: str, format: str) -> None:
    flags = ["--lang", "zh", "--reasoning", "show", "--max-dx", "3", "--fail-on", "urgent"]
    result = run("diagnose", case, "--format", format, *flags)
    assert result.exit_code == 10
    assert "The pain and the sweating fit." in result.stdout
    assert "未经临床审核" in result.stdout or format == "json"
    assert (model.tasks[0].schema or {})["properties"]["differential"]["maxItems"] == 3
    hidden = run("diagnose", case, "--format", format)
    assert "sweating fit" not in hidden.stdout


def test_batch_keeps_to_the_same_flags(model: Scripted) -> None:
    flags = ["--lang", "zh", "--reasoning", "show", "--max-dx", "3", "--fail-on", "urgent"]
    result = run("batch", *flags, input=case_line("a"))
    record = json.loads(result.stdout)
    assert result.exit_code == 10
    assert (record["language"], record["reasoning"]) == ("zh", "The pain and the sweating fit.")
    assert record["provenance"]["options"]["max_dx"] == 3


def test_an_error_in_fhir_is_an_outcome(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    use(monkeypatch, Scripted(lambda task: (answer_well(task)[0], "bad")))
    result = run("diagnose", case, "--format", "fhir")
    assert result.exit_code == 5
    assert json.loads(result.stdout)["entry"][0]["resource"]["resourceType"] == "OperationOutcome"


@pytest.mark.parametrize(
    ("most", "reasons", "chinese", "said"),
    [
        (3000, True, False, ["At 16.0 tokens a second this may take up to 3 minutes; --reasoning off answers sooner."]),
        (3000, False, False, ["At 16.0 tokens a second this may take up to 3 minutes."]),
        (3000, True, True, ["每秒16.0个词元，最长可能需要3分钟；--reasoning off 可更快得到回答。"]),
        (1900, True, False, []),
    ],
)
def test_a_long_time_is_said_once(
    monkeypatch: pytest.MonkeyPatch, most: int, reasons: bool, chinese: bool, said: list[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr("antangel_cli.pace.time.monotonic", lambda: now[0])
    heard: list[str] = []
    pace = Pace(most, reasons, chinese, heard.append)
    for count in range(1, 60):
        pace.see(count)
        now[0] += 1 / 16
    assert heard == said


def test_a_replay_leaves_a_line_in_the_audit(model: Scripted, tmp_path: Path, case: str) -> None:
    place = made(tmp_path, case)
    run("diagnose", case, "--replay", place)
    lines = [json.loads(line) for line in run("audit", "show", "--json").stdout.splitlines()]
    found: Any = lines[0] if len(lines) == 1 else lines
    assert json.dumps(found).count('"diagnose"') == 2


def test_the_recorded_context_and_reading_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[int | None] = []
    scripted = Scripted()

    def opening(settings: Any, advance: Any, sequences: int = 1, announce: Any = None) -> Scripted:
        seen.append(settings.context)
        return scripted

    monkeypatch.setattr(load, "open_model", opening)
    named = tmp_path / "named.json"
    named.write_text(json.dumps({**CHEST_PAIN, "patient": {"name": SECRET, "age": {"value": 58}}}))
    place = made(tmp_path, str(named), "--redact")
    assert run("diagnose", str(named), "--replay", place).exit_code == 0
    assert seen == [None, scripted.context]


def test_a_slow_model_is_said_on_stderr(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    ticks = iter(range(100, 100_000, 5))
    monkeypatch.setattr("antangel_cli.pace.time", SimpleNamespace(monotonic=lambda: next(ticks)))
    use(monkeypatch, Scripted(lambda task: ("so " * 40, answer_well(task)[1])))
    assert "--reasoning off answers sooner" in run("diagnose", case).stderr
    assert "sooner" not in run("diagnose", case, "-q").stderr
