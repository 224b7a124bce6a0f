"""`antangel doctor` names the kernels of this machine and why it did not get others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from antangel_cli import load, self_test
from antangel_cli.app import app
from antangel_cli.permissions import examine_places
from antangel_cli.settings import Settings
from antangel_cli.source import EMBEDDED
from kernels.cpu.variants import best_first
from runtime import write_pack
from tests.runtime.damage import damaged, scaled
from tests.runtime.tiny import make_tiny_checkpoint

EXAMPLE = Path(__file__).resolve().parent.parent.parent / "examples" / "chest-pain.json"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        app(["doctor", *arguments])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_every_op_has_a_kernel_and_every_better_one_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, "--json"))
    assert set(found["kernels"]) >= {"linear", "experts", "paged_attention", "head"}
    chosen = set(found["kernels"].values())
    assert len(chosen) == 1
    better = [variant.name for variant in best_first]
    name = chosen.pop()
    expected = better[: better.index(name.removeprefix("c++ "))] if name != "torch" else better
    assert [key.removeprefix("c++ ") for key in found["refused"]] == expected
    assert all(found["refused"].values())
    assert found["machine"]["usable_cores"] > 0
    assert found["model"]["name"] == "nano"


def test_the_page_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    page = run(capsys)
    for word in ("Machine", "Kernels in use", "experts", "usable memory GiB", "Model: nano"):
        assert word in page


def gpu(device: str, **facts: object) -> dict[str, object]:
    ops = ("linear", "experts")
    return {
        "device": device,
        "name": "NVIDIA GeForce RTX 4090",
        "compute_capability": "8.9",
        "memory": 24 << 30,
        "memory_free": 23 << 30,
        "driver": "570.86.15",
        "cuda": "12.8",
        "triton": "3.6.0",
        "agrees": True,
        "examination": "every Triton kernel agrees with the reference, bit for bit",
        "kernels": dict.fromkeys(ops, "triton"),
        "refused": {},
    } | facts


def test_without_a_gpu_one_line_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    found = json.loads(run(capsys, "--json"))
    assert found["gpus"] == []
    assert found["machine"]["gpus"].startswith("none")
    page = run(capsys)
    assert [line.split() for line in page.splitlines() if "gpu" in line.lower()] == [
        ["gpus", *found["machine"]["gpus"].split()]
    ]


def test_each_gpu_is_shown_with_what_its_examination_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "this GPU computes other bits in linear: w8a8:64, 1 row: 3 of 80 numbers"
    elsewhere = dict.fromkeys(("c++ avx2", "c++ portable"), "computes on the CPU alone")
    gpus = [
        gpu("cuda:0"),
        gpu(
            "cuda:1",
            agrees=False,
            examination=reason,
            kernels={"linear": "torch"},
            refused={"triton": reason} | elsewhere,
        ),
        {key: value for key, value in gpu("cuda:2", problem="it is lost").items() if not key.startswith("memory")},
    ]
    monkeypatch.setattr("runtime.examination.doctor.examine_gpus", lambda announce: gpus)
    found = json.loads(run(capsys, "--json"))
    assert found["gpus"] == gpus
    assert [one["agrees"] for one in found["gpus"]] == [True, False, True]
    page = run(capsys)
    first, second, third = (page.partition(f"GPU cuda:{i}")[2].partition("\n\n")[0] for i in range(3))
    for words in (
        "compute capability  8.9",
        "23.0 GiB free of 24.0 GiB",
        "570.86.15",
        "12.8",
        "3.6.0",
        "bit for bit",
        "triton: linear, experts",
    ):
        assert words in first
    assert "refused" not in first
    assert f"examination         {reason}" in second
    assert f"triton: {reason}" in second
    assert "torch: linear" in second
    assert "c++ avx2, c++ portable: computes on the CPU alone" in second
    assert "it is lost" in third
    assert "free of" not in third


def test_without_a_compiler_the_reference_runs_and_doctor_says_what_is_missing(tmp_path: Path) -> None:

    environment = os.environ | {"CXX": "/nowhere/g++", "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "antangel_cli", "doctor", "--json"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(result.stdout)
    assert set(found["kernels"].values()) == {"torch"}
    assert "unset CXX, or install it" in found["refused"]["c++ portable"]


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("nano") / "model"
    write_pack(EMBEDDED, place)
    return place


@pytest.fixture(scope="module")
def broken(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bytes are those of its manifest, and its experts are 4 times too large."""
    return damaged(
        nano, tmp_path_factory.mktemp("broken") / "model", lambda planes: [scaled(p, 4) for p in planes.scales()]
    )


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as caught:
        app(list(arguments))
    return caught.value.code, *capsys.readouterr()


def verdicts() -> list[Path]:
    return list((Path.home() / ".cache" / "antangel" / "self-tests").glob("*.json"))


def test_a_model_is_counted_planned_and_tested(capsys: pytest.CaptureFixture[str], nano: Path) -> None:
    found = json.loads(run(capsys, str(nano), "--json"))
    model = found["model"]
    assert model["found"] == model["expected"] == {"tensors": 252, "elements": 10_309_760, "float32": 64}
    assert (model["kind"], model["mtp_layers"], model["fingerprint"]) == ("pack", 1, "no known model of this shape")
    assert model["memory"]["fits"] == "ram"
    assert model["memory"]["needs"] < model["memory"]["may_take"]
    assert model["sound"] is True
    assert set(found["rates"]) == {"memory", "disk"}
    assert all(rate["bytes_per_s"] > 0 for rate in found["rates"].values())
    page = run(capsys, "-m", str(nano))
    for word in ("252 tensors", "fingerprint", "self-test    passed", "memory GB/s", "disk GB/s", "triton", "compiler"):
        assert word in page


def test_a_bare_checkpoint_is_counted_like_its_pack(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "tiny")
    code, page, _ = ended(capsys, "doctor", str(checkpoint), "--json")
    model = json.loads(page)["model"]
    assert model["kind"] == "checkpoint, F32"
    assert model["found"] == model["expected"]
    assert (code, model["sound"]) == (4, False)


def test_a_model_with_a_tensor_too_few_is_a_problem(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "tiny")
    config = json.loads((checkpoint / "config.json").read_text())
    layers = config["num_hidden_layers"] + 4
    (checkpoint / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    code, page, _ = ended(capsys, "doctor", str(checkpoint))
    assert code == 4
    assert "Problem: tiny: the tensors in" in page
    assert "missing  model.layers." in page


def test_two_models_are_one_too_many(capsys: pytest.CaptureFixture[str], nano: Path) -> None:
    assert ended(capsys, "doctor", str(nano), "-m", str(nano))[0] == 2


def test_a_model_in_use_is_not_tested(capsys: pytest.CaptureFixture[str], nano: Path) -> None:
    hold = "import sys; from runtime import ModelLock; ModelLock.take(sys.argv[1]); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(nano)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        model = json.loads(run(capsys, str(nano), "--json"))["model"]
        holder.kill()
    assert f"in use by process {holder.pid}" in model["self_test"]
    assert model["found"] == model["expected"]


def test_a_damaged_model_stops_what_would_answer_with_it(capsys: pytest.CaptureFixture[str], broken: Path) -> None:
    for command in (
        ("diagnose", str(EXAMPLE)),
        ("ask", "What confirms Kidney stone?"),
        ("batch", str(EXAMPLE.with_name("cases.jsonl"))),
    ):
        code, answer, said = ended(capsys, *command, "-m", str(broken), "--json", "--context", "4096")
        assert code == 4
        error = json.loads(answer)["error"]
        assert (error["code"], error["stage"]) == ("model_damaged", "self_test")
        assert "perplexity" in said
        assert "antangel pack --check" in said
    assert len(verdicts()) == 1
    code, page, _ = ended(capsys, "doctor", str(broken))
    assert code == 4
    assert "FAILED: its perplexity" in page


def test_a_good_verdict_is_kept_and_used(
    capsys: pytest.CaptureFixture[str], nano: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("ask", "What confirms Kidney stone?", "-m", str(nano), "--max-tokens", "4", "--context", "512")
    assert ended(capsys, *asked)[0] == 0
    (kept,) = verdicts()
    assert kept.stat().st_mode & 0o777 == 0o600
    report = json.loads(kept.read_text())
    assert report["faults"] == []
    assert report["nats"] < report["most_nats"]
    monkeypatch.setattr(load, "self_test", lambda *_: pytest.fail("it was tested again"))
    assert ended(capsys, *asked)[0] == 0
    kept.write_text(json.dumps(report | {"faults": ["it says nothing"]}))
    code, _, said = ended(capsys, *asked)
    assert code == 4
    assert "it says nothing" in said


def test_a_verdict_that_cannot_be_read_or_kept_is_made_anew(
    capsys: pytest.CaptureFixture[str], nano: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("ask", "What confirms Kidney stone?", "-m", str(nano), "--max-tokens", "4", "--context", "512")
    assert ended(capsys, *asked)[0] == 0
    (kept,) = verdicts()
    for content in ("{", "[]", json.dumps({"schema": "antangel.self_test/1", "faults": []})):
        kept.write_text(content)
        assert ended(capsys, *asked)[0] == 0
        assert json.loads(kept.read_text())["tokens"] > 0
    home = Path.home() / ".cache" / "antangel"
    monkeypatch.setattr(self_test, "verdicts_home", lambda: home / "self-tests" / kept.name)
    assert ended(capsys, *asked)[0] == 0


def test_texts_that_do_not_fit_are_no_fault_of_the_model(nano: Path) -> None:
    told: list[str] = []
    model = load.open_model(Settings(model=str(nano), context=128), lambda done, total: None)
    self_test.require_sound(model, told.append)
    model.close()
    assert len(told) == 1
    assert "The self-test was not run" in told[0]
    assert verdicts() == []


def test_random_weights_are_not_tested(capsys: pytest.CaptureFixture[str], nano: Path, tmp_path: Path) -> None:
    pack = damaged(
        nano, tmp_path / "model", lambda planes: [scaled(p, 4) for p in planes.scales()], kind="random weights"
    )
    model = json.loads(run(capsys, str(pack), "--json"))["model"]
    assert model["self_test"] == "not run: random weights"
    asked = ("ask", "Hello", "-m", str(pack), "--max-tokens", "4", "--context", "512")
    assert ended(capsys, *asked)[0] == 0
    assert verdicts() == []


def test_directories_that_others_can_enter_are_warned_of(tmp_path: Path) -> None:
    state = tmp_path / "state" / "antangel"
    state.mkdir(parents=True)
    state.chmod(0o750)
    environ = {"XDG_STATE_HOME": str(tmp_path / "state"), "XDG_CACHE_HOME": str(tmp_path / "none")}
    places = {place.use: place for place in examine_places(environ, tmp_path / "none" / "kernels", tmp_path)}
    assert places["state"].path == str(state)
    assert "chmod 700" in places["state"].warning
    assert "drwxr-x---" in places["state"].state
    assert (places["cache"].state, places["cache"].warning) == ("not there yet", "")
    assert places["model"].warning == ""
    state.chmod(0o700)
    places = {place.use: place for place in examine_places(environ, tmp_path / "none" / "kernels")}
    assert places["state"].warning == ""
    assert "model" not in places
