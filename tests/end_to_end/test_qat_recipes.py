"""Quantization-aware training of a recipe, through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekd.evidence.candidate import Candidate
from edgekd.evidence.outcome import Outcome
from edgekd.pipeline.plan import check
from edgekd.pipeline.run import initial_state
from edgekd.pipeline.stages import ladder
from edgekd.system.progress import no_progress
from edgekd.system.store import open_run
from tests.support.project import OUTLIER, Project, assert_five_parts, tiny_recipe
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter

NORMED = """

def normed():
    return nn.Sequential(nn.LayerNorm(8), Outlier())
"""


def trained_recipe() -> dict[str, Any]:
    recipe = tiny_recipe()
    recipe["quantize"] = {
        "schemes": ["fp32", "int8"],
        "search": "first",
        "calibration": "random-128",
        "qat_epochs": 2,
        "qat_learning_rate": 2e-3,
    }
    return recipe


def test_a_qat_candidate_pays_off_or_says_why_not(project: Project, edgekd_cli: Any) -> None:
    need_modules("onnx", "onnxscript", "onnxruntime")
    recipe = project.write(trained_recipe())
    said = edgekd_cli("run", recipe, "--out", project.folder / "runs", "--json")
    assert said.code == 0, said.err
    rows = {row["candidate"]: row for row in said.json["rows"]}
    assert set(rows) == {"fp32", "int8", "qat-int8"}
    trained, after = rows["qat-int8"], rows["int8"]
    assert trained["network"] == "qat"
    assert trained["method"] == "min-max"
    # The file computes what was trained, which the student in float does not.
    assert trained["agreement"]["simulation_db"] > trained["agreement"]["sqnr_db"] + 6
    assert after["agreement"]["simulation_db"] is None
    better = trained["agreement"]["validation_metric"] > after["agreement"]["validation_metric"]
    if not better:
        assert "after QAT" in trained["detail"]
        assert said.json["chosen"]["x86-cpu-onnx"]["candidate"] != "qat-int8"
    again = edgekd_cli("run", recipe, "--out", project.folder / "runs", "--json")
    assert any("trained-onnx" in name for name in again.json["reused"])
    digests = [[row["artifact"]["sha256"] for row in each.json["rows"]] for each in (said, again)]
    assert digests[0] == digests[1]


def outlier_recipe(project: Project, **more: Any) -> dict[str, Any]:
    """A recipe whose student has outliers, so that no int8 method is accepted."""
    models = project.folder / "models.py"
    models.write_text(models.read_text() + OUTLIER)
    recipe = trained_recipe()
    recipe["student"]["load"] = "models.py:Outlier"
    recipe["accept"] = {"max_drop": 0.5, "min_agreement": 0.97}
    # One more candidate than the first of int8: layers in float are not tried.
    recipe["quantize"].update(search="auto", candidates=1, **more)
    return recipe


def candidates_of(said: Any) -> dict[str, dict[str, Any]]:
    assert said.code in (0, 9), said.err
    return {row["candidate"]: row for row in said.json["rows"]}


def epochs_of(said: Any) -> list[int]:
    """The epochs of the only QAT training in the run."""
    (path,) = Path(said.json["run"]).glob("quantize/trained-onnx-*/history.jsonl")
    return [json.loads(row)["epoch"] for row in path.read_text().splitlines()]


def test_qat_is_the_last_fallback(project: Project, edgekd_cli: Any) -> None:
    """One process trains, although two distilled before; the next run reuses the result."""
    need_modules("onnx", "onnxscript", "onnxruntime")
    recipe = outlier_recipe(project, qat_learning_rate=1e-2)
    recipe["distill"]["devices"] = 2
    words = ("run", project.write(recipe), "--out", project.folder / "runs", "--json")
    words += ("--until", "ladder")
    said = edgekd_cli(*words)
    rows = candidates_of(said)
    *missed, last = rows
    assert list(rows)[:2] == ["fp32", "int8"]
    assert len(missed) == 3
    assert {rows[name]["outcome"] for name in missed[1:]} == {"disagrees"}
    assert last == "qat-int8"
    trained = rows[last]
    assert trained["method"] == "min-max"
    assert trained["agreement"]["simulation_db"] > trained["agreement"]["sqnr_db"]
    assert epochs_of(said) == [1, 2]
    again = edgekd_cli(*words)
    assert any("trained-onnx" in name for name in again.json["reused"])
    assert candidates_of(again)[last]["artifact"] == {
        **trained["artifact"],
        "path": candidates_of(again)[last]["artifact"]["path"],
    }
    # Under a user's own launcher the others have ended, and are not waited for.
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    argv = [sys.executable, *launcher, "-m", "edgekd.cli", *map(str, words)]
    argv += ["--set", "quantize.qat_epochs=1"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "quantize 1/1" in done.stderr


def test_an_accepted_candidate_is_not_trained_again(project: Project, edgekd_cli: Any) -> None:
    need_modules("onnx", "onnxscript", "onnxruntime")
    recipe = trained_recipe()
    recipe["quantize"]["search"] = "auto"
    words = ("run", project.write(recipe), "--out", project.folder / "runs", "--json")
    rows = candidates_of(edgekd_cli(*words, "--until", "ladder"))
    assert set(rows) == {"fp32", "int8", "int8.percentile"}


def test_a_format_without_simulation_is_a_refused_fallback(project: Project) -> None:
    need_modules("openvino", "nncf")
    recipe = outlier_recipe(project)
    models = project.folder / "models.py"
    models.write_text(models.read_text() + NORMED)
    recipe["student"]["load"] = "models.py:normed"
    recipe["targets"] = [{"name": "x86-cpu-openvino"}]
    run = open_run(project.folder / "runs", "tiny", seed=0, progress=no_progress)
    work = initial_state(check(project.write(recipe)), run)
    missed = Candidate("x86-cpu-openvino", "openvino", "int8", Outcome.DISAGREES, method="min-max")
    ((row, _),) = ladder.qat([missed], work, run)
    assert (row.name, row.outcome) == ("qat-int8", Outcome.REFUSED)
    assert row.detail == "QAT does not simulate how openvino quantizes inside layer_norm"
    assert not list(ladder.qat([replace(missed, scheme="int8-weights")], work, run))


def test_a_failed_qat_fallback_does_not_end_the_run(project: Project, edgekd_cli: Any) -> None:
    need_modules("onnx", "onnxscript", "onnxruntime")
    recipe = outlier_recipe(project, qat_learning_rate=1e30)
    words = ("run", project.write(recipe), "--out", project.folder / "runs", "--json")
    rows = candidates_of(edgekd_cli(*words, "--until", "ladder"))
    assert rows["fp32"]["outcome"] is None
    assert rows["qat-int8"]["outcome"] == "convert-failed"
    assert "The training loss is not finite." in rows["qat-int8"]["detail"]


def test_two_processes_train_a_qat_student(project: Project, edgekd_cli: Any) -> None:
    """In the quantize stage, where the other processes still run."""
    recipe = trained_recipe()
    recipe["distill"]["devices"] = 2
    words = ("run", project.write(recipe), "--out", project.folder / "runs", "--json")
    said = edgekd_cli(*words, "--until", "quantize")
    assert said.code == 0, said.err
    assert "quantize 2/2" in said.err
    assert epochs_of(said) == [1, 2]


def test_a_format_whose_quantizer_is_not_simulated_is_refused_with_the_reason(
    project: Project, edgekd_cli: Any
) -> None:
    need_modules("onnx", "onnxscript", "onnxruntime", "coremltools")
    recipe = trained_recipe()
    recipe["targets"].append({"name": "iphone-15-coreml", "required": False})
    said = edgekd_cli("check", project.write(recipe), "--json")
    assert said.code == 0, said.err
    assert "QAT does not simulate the quantizer of coreml" in said.out


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"schemes": ["fp32"]}, "schemes"),
        ({"qat_epochs": 0}, "qat_learning_rate"),
        ({"qat_epochs": -1}, "qat_epochs"),
        ({"qat_learning_rate": 0.0}, "qat_learning_rate"),
        ({"qat_from": "nobody"}, "qat_from"),
        ({"qat_from": "teacher"}, "qat_from"),
    ],
)
def test_wrong_qat_settings_are_errors_before_any_work(
    changed: dict[str, Any], key: str, project: Project, edgekd_cli: Any
) -> None:
    recipe = trained_recipe()
    recipe["quantize"].update(changed)
    if changed == {"qat_from": "teacher"}:
        del recipe["teacher"]
        recipe["distill"]["losses"] = [{"method": "hard"}]
    said = edgekd_cli("check", project.write(recipe))
    assert said.code == 2
    assert_five_parts(said.err)
    assert f"quantize.{key}" in said.err
