"""Recipes through the command line, each exit code from a real cause."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgekd.formats import FORMATS
from tests.support.project import Project, assert_five_parts, tiny_recipe
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter

KEYS = {"target", "format", "scheme", "outcome", "detail", "artifact", "agreement", "measurement"}


@pytest.fixture(autouse=True)
def _converters() -> None:
    for module in FORMATS.values():
        need_modules(*module.PACKAGES)


def test_one_recipe_makes_verified_and_measured_artifacts_for_four_targets(
    edgekd_cli: Any, project: Project
) -> None:
    document = tiny_recipe()
    document["quantize"]["schemes"] = ["fp32", "fp16", "int8"]
    # Wide enough that Core ML's quantizer takes its weights for any.
    document["student"] |= {"load": "models.py:net", "options": {"width": 96}}
    limits = {"latency_p90_ms": 50.0, "size_bytes": 200_000, "peak_memory_bytes": 2**30}
    document["targets"] = [
        {"name": f"x86-cpu-{name}", "budget": limits} for name in ("onnx", "openvino", "litert")
    ]
    document["targets"].append(
        {"name": "iphone-15-coreml", "budget": {"size_bytes": 200_000}, "required": False}
    )
    out = project.folder / "runs"
    said = edgekd_cli("run", project.write(document), "--out", out, "--json")
    assert said.code == 0, said.err
    latest = out / "tiny" / "latest"
    result = json.loads((latest / "result.json").read_text())
    assert result == said.json
    assert result["passed"] is True
    assert {"metric", "parameters", "macs"} <= set(result["teacher"]) & set(result["student"])
    assert len(result["rows"]) == 12
    for row in result["rows"]:
        assert set(row) >= KEYS
        folder = latest / "artifacts" / row["target"] / row["scheme"]
        card = json.loads((folder / "artifact.json").read_text())
        assert card["sha256"] == row["artifact"]["sha256"]
        assert card["lineage"]["network_sha256"]
        assert Path(row["artifact"]["path"]).exists()
        assert row["agreement"]["sqnr_db"] > 15
        if row["format"] == "coreml":
            assert row["outcome"] == "passed"
            assert row["evidence"] == "reference"
            assert row["measurement"] is None
            continue
        assert row["measurement"]["sample_count"] >= 600
        assert row["measurement"]["peak_memory_bytes"] > 0
        assert row["outcome"] == "passed"
    for name in ("onnx", "openvino", "litert"):
        choice = result["chosen"][f"x86-cpu-{name}"]
        assert choice["scheme"] in ("fp32", "fp16", "int8")
        others = [r for r in result["rows"] if r["target"] == f"x86-cpu-{name}"]
        assert all(r["detail"] for r in others if r["scheme"] != choice["scheme"])
    assert result["chosen"]["iphone-15-coreml"]["scheme"] == "fp32"
    untimed = [r for r in result["rows"] if r["format"] == "coreml" and r["scheme"] != "fp32"]
    assert all("is not shown to pay on iphone-15-coreml" in row["detail"] for row in untimed)
    for name in ("recipe.toml", "environment.json", "log.txt", "train", "distill", "quantize"):
        assert (latest / name).exists()
    assert "Statistics collection" in (latest / "log.txt").read_text(), "NNCF's chatter"
    assert "Statistics collection" not in said.err

    again = edgekd_cli("run", project.recipe, "--out", out)
    assert again.code == 0
    assert (
        "reused from earlier runs: train (1), distill (1), quantize (1), export (12)" in again.out
    )
    document["accept"]["max_drop"] = 0.4
    third = edgekd_cli("run", project.write(document), "--out", out, "--json")
    assert {name.partition("/")[0] for name in third.json["reused"]} == {
        "train", "distill", "quantize", "export", "benchmark"
    }  # fmt: skip


def test_an_optional_target_does_not_fail_the_run_if_it_cannot_be_judged(
    edgekd_cli: Any, project: Project
) -> None:
    document = tiny_recipe()
    untimed = {"latency_p90_ms": 5.0}
    entry = {"name": "iphone-15-coreml", "required": False, "budget": untimed}
    document["targets"].append(entry)
    out = project.folder / "runs"
    said = edgekd_cli("run", project.write(document), "--out", out, "--json")
    assert said.code == 0
    assert said.json["rows"][-1]["outcome"] == "undecided"
    assert "latency_p90_ms: not timed" in said.json["rows"][-1]["detail"]
    document["targets"][1]["budget"] = {"size_bytes": 10}
    said = edgekd_cli("run", project.write(document), "--out", out)
    assert said.code == 8
    assert "iphone-15-coreml" in said.err


def test_until_ends_the_run_after_a_stage(edgekd_cli: Any, project: Project) -> None:
    said = edgekd_cli(
        "run", project.recipe, "--out", project.folder / "runs", "--until", "distill", "--json"
    )
    assert said.code == 0
    assert said.json["until"] == "distill"
    assert said.json["passed"] is False
    assert said.json["rows"][0]["artifact"] is None


@pytest.mark.parametrize(
    ("settings", "code", "message"),
    [
        (["student.load=models.py:branching"], 5, "convert-failed"),
        (["targets.0.device=ssh://nobody@127.0.0.1:1"], 6, "unavailable"),
        (["accept.max_drop=0.0", "distill.optimizer.learning_rate=1e-9"], 7, "disagrees"),
        (["targets.0.budget.size_bytes=10"], 8, "over-budget"),
        (["targets.0.budget.latency_p90_ms=0.000001"], 8, "over-budget"),
        (
            ["targets.0.name=raspberry-pi-5-litert", "targets.0.budget.latency_p90_ms=100.0"],
            9,
            "measured on the host, not on the device",
        ),
    ],
)
def test_a_failed_run_exits_with_the_code_of_its_cause(
    edgekd_cli: Any, project: Project, settings: list[str], code: int, message: str
) -> None:
    args = [word for setting in settings for word in ("--set", setting)]
    said = edgekd_cli("run", project.recipe, "--out", project.folder / "runs", *args)
    assert said.code == code, said.err
    assert message in said.err
    assert_five_parts(said.err)
    result = json.loads((project.folder / "runs/tiny/latest/result.json").read_text())
    assert result["exit_code"] == code
    assert result["passed"] is False
    assert result["chosen"][result["rows"][0]["target"]]["scheme"] is None


def test_the_other_targets_continue_if_one_fails(edgekd_cli: Any, project: Project) -> None:
    document = tiny_recipe()
    document["targets"] = [
        {"name": "x86-cpu-onnx", "budget": {"size_bytes": 10}},
        {"name": "x86-cpu-litert"},
    ]
    said = edgekd_cli("run", project.write(document), "--out", project.folder / "runs", "--json")
    assert said.code == 8
    assert [row["outcome"] for row in said.json["rows"]] == ["over-budget", "passed"]
    assert said.json["chosen"]["x86-cpu-litert"]["scheme"] == "fp32"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("student.load=models.py:student_of_four_classes", "does not fit the teacher's"),
        ("student.load=models.py:failing", "no such file: weights.bin"),
        ("data.options.count=20", "fewer samples than the calibration set"),
        ("distill.optimizer.learning_rate=1e30", "loss is not finite"),
        ("data.options.colour=1", "unexpected keyword argument"),
    ],
)
def test_wrong_data_or_networks_exit_with_2(
    edgekd_cli: Any, project: Project, setting: str, message: str
) -> None:
    said = edgekd_cli(
        "run", project.recipe, "--out", project.folder / "runs", "--set", setting,
        "--set", 'quantize.schemes=["int8"]',
    )  # fmt: skip
    assert said.code == 2, said.err
    assert message in said.err
    assert_five_parts(said.err)


def test_a_killed_run_continues_to_the_same_weights(project: Project) -> None:
    document = tiny_recipe()
    document["distill"]["epochs"] = 60
    project.write(document)
    command = [sys.executable, "-m", "edgekd.cli", "run", str(project.recipe), "--until", "distill"]

    def weights(out: Path) -> dict[str, torch.Tensor]:
        return load_file(out / "tiny" / "latest" / "distill" / "weights.safetensors")

    whole, killed = project.folder / "whole", project.folder / "killed"
    subprocess.run([*command, "--out", str(whole)], check=True, capture_output=True)
    process = subprocess.Popen([*command, "--out", str(killed)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("distill 12/60"):
            os.kill(process.pid, signal.SIGKILL)
            break
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "tiny" / "latest").exists()
    checkpoints = list(killed.rglob("checkpoint.pt"))
    assert len(checkpoints) == 1, "the training was under way"
    done = subprocess.run(
        [*command, "--out", str(killed)], check=True, capture_output=True, text=True
    )
    assert "reused from earlier runs: train" in done.stdout
    assert not any(line.startswith("distill 1/60") for line in done.stderr.splitlines())
    ours, theirs = weights(whole), weights(killed)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def exported(edgekd_cli: Any, project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The student as `onnx-fp32/`, with samples and weights beside it."""
    monkeypatch.chdir(project.folder)
    from edgekd.network.load import load_module

    torch.manual_seed(0)
    module, _ = load_module("models.py:student")
    save_file(module.state_dict(), "w.safetensors")
    save_file({"input": torch.randn(50, 8)}, "samples.safetensors")
    said = edgekd_cli(
        "export", "models.py:student", "--weights", "w.safetensors", "--example", "input=1x8",
        "--format", "onnx", "--out", "build",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert "onnx-fp32" in said.out
    assert "by torch.onnx: 3 operators, 0 transposes" in said.out
    assert "inputs: input 1x8 float32; outputs: output 1x3 float32" in said.out
    return project.folder


def test_export_verify_and_benchmark_work_without_a_recipe(edgekd_cli: Any, exported: Path) -> None:
    calibrated = edgekd_cli(
        "export", "models.py:student", "--weights", "w.safetensors", "--example", "1x8",
        "--format", "onnx", "--scheme", "int8", "--calibration", "samples.safetensors",
        "--out", "build", "--json",
    )  # fmt: skip
    assert calibrated.json["scheme"] == "int8"
    said = edgekd_cli(
        "verify", "build/onnx-fp32", "--against", "models.py:student",
        "--weights", "w.safetensors", "--samples", "samples.safetensors", "--json",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert said.json["sqnr_db"] > 90
    assert said.json["top1_agreement_frac"] == 1.0
    shown = edgekd_cli(
        "verify", "build/onnx-fp32", "--against", "models.py:student",
        "--weights", "w.safetensors", "--samples", "samples.safetensors",
    )  # fmt: skip
    assert shown.out.startswith("passed: SQNR ")
    assert f"by onnxruntime {said.json['runtime']['version']}" in shown.out
    both = ["build/onnx-fp32", "build/onnx-int8/model.onnx"]
    timed = edgekd_cli("benchmark", *both, "--quick", "--budget", "size_bytes=1000000", "--json")
    assert timed.code == 0, timed.err
    assert [entry["outcome"] for entry in timed.json] == ["passed", "passed"]
    assert timed.json[1]["measurement"]["ratio"]["value"] > 0
    assert (exported / "build" / "onnx-fp32.log").exists()


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["verify", "build/onnx-fp32", "--against", "models.py:student", "--samples",
          "samples.safetensors"], 7, "the network has other weights now"),
        (["verify", "build/onnx-fp32", "--against", "models.py:student", "--samples",
          "samples.safetensors", "--device", "ssh://nobody@127.0.0.1:1"], 6, "cannot be reached"),
        (["verify", "build/onnx-fp32", "--against", "models.py:student", "--samples",
          "samples.safetensors", "--device", "carrier-pigeon://x"], 2,
         "There is no device connection"),
        (["benchmark", "build/onnx-fp32", "--quick", "--budget", "size_bytes=10"], 8,
         "over-budget"),
        (["export", "models.py:branching", "--example", "x=1x8", "--format", "onnx", "--out", "b"],
         5, "has data-dependent control flow"),
        (["export", "timm:resnet18", "--example", "x=1x3x8x8", "--format", "onnx", "--out", "b"],
         4, "edgekd[timm]"),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)  # fmt: skip
def test_commands_without_a_recipe_exit_with_the_code_of_their_cause(
    edgekd_cli: Any,
    exported: Path,  # noqa: ARG001  its folder is the current one
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    said = edgekd_cli(*args)
    assert said.code == code, said.err
    assert message in said.err
    assert_five_parts(said.err)


def test_check_previews_the_files_of_the_untrained_student(
    edgekd_cli: Any, project: Project
) -> None:
    document = tiny_recipe()
    document["quantize"]["schemes"] = ["fp32", "fp16"]
    document["targets"] = [{"name": "x86-cpu-litert"}, {"name": "iphone-15-coreml"}]
    said = edgekd_cli("check", project.write(document), "--lint")
    assert said.code == 0, said.err
    assert "the untrained student:" in said.out
    assert "iphone-15-coreml fp32" in said.out
    assert "    refused: " in said.out
    assert "The Neural Engine computes in float16" in said.out
    assert "fix: choose fp16 or int8 for this target" in said.out
    assert "fp16 is storage only" in said.out
    assert not (project.folder / "runs").exists()
    rows = edgekd_cli("check", project.recipe, "--lint", "--json").json["lint"]
    assert [row["artifact"]["transposes"] is not None for row in rows] == [True] * 4
    document["student"]["load"] = "models.py:branching"
    said = edgekd_cli("check", project.write(document), "--lint")
    assert "The network has data-dependent control flow" in said.out
