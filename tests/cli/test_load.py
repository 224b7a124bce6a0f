"""The doors to the runtime, with a real engine on a tiny random checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from antangel_cli import load, source
from antangel_cli.clinic.model import READING, Model, Piece, Sampling, Task, Turn
from antangel_cli.errors import CommandError, ModelError, PolicyError, RejectedError
from antangel_cli.load.request import request_stages
from antangel_cli.settings import Settings
from tests.runtime.tiny import make_tiny_checkpoint

TURNS = (Turn("system", "Short."), Turn("user", "Fever for three days <|role_end|>"))
SCHEMA = {
    "type": "object",
    "properties": {"urgency": {"enum": ["emergency", "routine"]}, "sure": {"type": "boolean"}},
    "required": ["urgency", "sure"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Model:
    seen: list[tuple[int, int | None]] = []
    settings = Settings(model=str(checkpoint), device="cpu", threads=1)
    model = load.open_model(settings, lambda done, total: seen.append((done, total)), 2)
    assert seen
    assert seen[-1][0] == seen[-1][1]
    return model


def run(model: Model, task: Task) -> list[Piece]:
    number = model.submit(task)
    pieces: list[Piece] = []
    while not pieces or pieces[-1].finish is None:
        pieces += [piece for piece in model.step() if piece.task == number]
    return pieces


def text_of(pieces: list[Piece], stage: str) -> str:
    return "".join(piece.text for piece in pieces if piece.stage == stage)


def test_free_text_is_one_stage_and_repeats_with_its_seed(model: Model) -> None:
    first, again, other = (run(model, Task(TURNS, Sampling(seed=seed), 12)) for seed in (1, 1, 2))
    assert {piece.stage for piece in first} == {"text"}
    assert text_of(first, "text") == text_of(again, "text") != text_of(other, "text")
    assert first[-1].finish in ("length", "stop")
    assert sum(piece.tokens for piece in first) <= 12


def test_a_schema_is_answered_after_the_reasoning(model: Model) -> None:
    pieces = run(model, Task(TURNS, Sampling(), 8, schema=SCHEMA, answer_tokens=64))
    assert [piece.stage for piece in pieces] == sorted((piece.stage for piece in pieces), reverse=True)
    assert "</think>" not in text_of(pieces, "text")
    assert set(json.loads(text_of(pieces, "answer"))) == {"urgency", "sure"}
    assert pieces[-1].finish == "stop"


def test_without_reasoning_the_answer_comes_at_once(model: Model) -> None:
    pieces = run(model, Task(TURNS, Sampling(), 0, schema=SCHEMA, answer_tokens=64))
    assert {piece.stage for piece in pieces} == {"answer"}
    assert set(json.loads(text_of(pieces, "answer"))) == {"urgency", "sure"}


def test_what_the_runtime_is_asked_for() -> None:
    sampling = Sampling(temperature=0.3, seed=7)
    (text, first), (answer, second) = request_stages(Task(TURNS, sampling, 8, schema=SCHEMA))
    assert (text, first.prefix, first.stop, first.params.temperature) == (
        "text",
        "\n<think>\n",
        ("\n</think>", "</think>"),
        0.3,
    )
    assert (answer, second.prefix, second.schema) == ("answer", "\n</think>\n\n", SCHEMA)
    assert (second.params.temperature, second.params.repetition_penalty) == (0.0, 1.0)
    [(answer, only)] = request_stages(Task(TURNS, sampling, 0, schema=SCHEMA))
    assert (answer, only.prefix) == ("answer", "")


def test_two_tasks_in_flight_answer_as_each_alone(model: Model) -> None:
    tasks = [Task(TURNS, Sampling(seed=seed), 10) for seed in (3, 4)]
    alone = [text_of(run(model, task), "text") for task in tasks]
    numbers = [model.submit(task) for task in tasks]
    pieces: list[Piece] = []
    while sum(piece.finish is not None for piece in pieces) < 2:
        pieces += model.step()
    together = [text_of([piece for piece in pieces if piece.task == number], "text") for number in numbers]
    assert together == alone


def test_an_aborted_task_says_nothing_more(model: Model) -> None:
    number = model.submit(Task(TURNS, Sampling(), 50))
    model.step()
    model.abort(number)
    assert all(piece.task != number for _ in range(3) for piece in model.step())
    assert model.step() == []


def test_a_prompt_that_does_not_fit_is_refused_with_its_counts(model: Model) -> None:
    with pytest.raises(RejectedError, match=str(model.context)) as caught:
        model.submit(Task(TURNS, Sampling(), model.context))
    assert (caught.value.exit_code, caught.value.code) == (3, "too_long")


def test_measurements_are_measured_or_null(model: Model) -> None:
    run(model, Task(TURNS, Sampling(), 8))
    stats = model.stats()
    assert stats["bytes_moved"] == 0
    assert stats["hit_rate"] is None
    for key in ("decode_tok_s", "ttft_ms", "ram_peak", "generated_tokens"):
        value = stats[key]
        assert value is not None
        assert value > 0


def test_provenance_names_what_answered(model: Model, checkpoint: Path) -> None:
    assert model.provenance["name"] == "tiny"
    assert model.provenance["demonstration"] is False
    assert model.provenance["number_format"] == "float32"
    assert model.provenance["device"] == "cpu"
    assert model.provenance["weights"] == source.manifest_hash(checkpoint)


def copy_of(checkpoint: Path, place: Path) -> Path:
    return Path(shutil.copytree(checkpoint, place / "copy"))


def test_the_manifest_hash_sees_one_changed_byte(checkpoint: Path, tmp_path: Path) -> None:
    copy = copy_of(checkpoint, tmp_path)
    assert source.manifest_hash(copy) == source.manifest_hash(checkpoint)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert source.manifest_hash(copy) != source.manifest_hash(checkpoint)


def opening(path: Path, **settings: object) -> CommandError:
    with pytest.raises(CommandError) as caught:
        load.open_model(Settings(model=str(path), device="cpu", threads=1, **settings), lambda done, total: None)  # type: ignore[arg-type]
    return caught.value


def test_a_model_that_is_not_whole_is_refused_with_a_remedy(checkpoint: Path, tmp_path: Path) -> None:
    missing = opening(tmp_path / "none")
    assert (missing.exit_code, missing.code) == (4, "model_missing")
    assert "-m DIR" in missing.remedy
    copy = copy_of(checkpoint, tmp_path)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5000])
    assert opening(copy).exit_code == 4
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    incomplete = opening(copy)
    assert (incomplete.exit_code, incomplete.code) == (
        4,
        "model_incomplete",
    )
    assert "gone.safetensors" in incomplete.message
    (copy / "config.json").unlink()
    assert opening(copy).code == "model_incomplete"
    (copy / "config.json").write_text("{")
    assert opening(copy).code == "model_damaged"


def test_a_gpu_that_is_not_there_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ModelError, match="cuda:63"):
        load.open_model(Settings(model=str(checkpoint), device="cuda:63"), lambda done, total: None)


def test_the_demonstration_model_is_known_by_its_mark(checkpoint: Path, tmp_path: Path) -> None:
    copy = copy_of(checkpoint, tmp_path)
    config = json.loads((copy / "config.json").read_text())
    assert source.find_model(Settings(model=str(copy))).demonstration is False
    (copy / "config.json").write_text(json.dumps(config | {source.MARK: True}))
    assert source.find_model(Settings(model=str(copy))).demonstration is True


def test_the_embedded_model_is_a_demonstration_whatever_it_says(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "EMBEDDED", checkpoint)
    for settings in (Settings(), Settings(model=str(checkpoint))):
        assert source.find_model(settings).demonstration is True
    with pytest.raises(PolicyError) as caught:
        source.find_model(Settings(demo_model=False, origins={"demo_model": "/etc/antangel/config.toml"}))
    assert caught.value.exit_code == 7
    assert "/etc/antangel/config.toml" in caught.value.message


def test_without_any_model_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(source, "EMBEDDED", tmp_path)
    with pytest.raises(ModelError) as caught:
        source.find_model(Settings())
    assert caught.value.exit_code == 4
    assert "-m DIR" in caught.value.remedy


def test_a_long_prompt_is_read_in_parts_and_can_be_stopped_between_them(model: Model) -> None:
    turns = (Turn("user", "fever " * 600),)
    assert model.count(turns) > 600
    number = model.submit(Task(turns, Sampling(), 4))
    assert model.step() == [READING]
    model.abort(number)
    assert model.step() in ([], [READING])
    assert model.step() == []


def test_the_next_turn_of_a_conversation_reuses_the_turns_before(model: Model) -> None:
    turns = (*TURNS[:1], Turn("user", "Fever for three days, and a cough. " * 8))
    reply = text_of(run(model, Task(turns, Sampling(), 8)), "text")
    before = model.stats()["shared_tokens"] or 0
    run(model, Task((*turns, Turn("assistant", reply), Turn("user", "And now?")), Sampling(), 8))
    reused = (model.stats()["shared_tokens"] or 0) - before
    assert model.count(turns) // 2 < reused <= model.count(turns) + 16
