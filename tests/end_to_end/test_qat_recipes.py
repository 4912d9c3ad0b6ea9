"""What a recipe can ask of training to be rounded, through the command line."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Project, assert_five_parts, tiny_recipe
from needs import need_modules

pytestmark = pytest.mark.converter


def trained_recipe() -> dict[str, Any]:
    recipe = tiny_recipe()
    recipe["quantize"] = {
        "schemes": ["fp32", "int8"],
        "search": "first",
        "calibration": "random-128",
        "qat_epochs": 2,
        "qat_learning_rate": 1e-3,
    }
    return recipe


def test_a_student_trained_to_be_rounded_is_a_row_and_pays_or_says_why_not(
    project: Project, edgekd_cli: Any
) -> None:
    need_modules("onnx", "onnxscript", "onnxruntime")
    recipe = project.write(trained_recipe())
    said = edgekd_cli("run", recipe, "--out", project.folder / "runs", "--json")
    assert said.code == 0, said.err
    rows = {row["candidate"]: row for row in said.json["rows"]}
    assert set(rows) == {"fp32", "int8", "quantized-int8"}
    trained, after = rows["quantized-int8"], rows["int8"]
    assert trained["network"] == "quantized"
    assert trained["method"] == "min-max"
    # The file computes what was trained, which the student in float does not.
    assert trained["agreement"]["simulation_db"] > trained["agreement"]["sqnr_db"] + 6
    assert after["agreement"]["simulation_db"] is None
    better = trained["agreement"]["validation_metric"] > after["agreement"]["validation_metric"]
    if not better:
        assert "trained to be rounded" in trained["detail"]
        assert said.json["chosen"]["x86-cpu-onnx"]["candidate"] != "quantized-int8"
    again = edgekd_cli("run", recipe, "--out", project.folder / "runs", "--json")
    assert any("trained-onnx" in name for name in again.json["reused"])
    digests = [[row["artifact"]["sha256"] for row in each.json["rows"]] for each in (said, again)]
    assert digests[0] == digests[1]


def test_a_format_whose_rounding_is_not_simulated_is_refused_with_the_reason(
    project: Project, edgekd_cli: Any
) -> None:
    need_modules("onnx", "onnxscript", "onnxruntime", "coremltools")
    recipe = trained_recipe()
    recipe["targets"].append({"name": "iphone-15-coreml", "required": False})
    said = edgekd_cli("check", project.write(recipe), "--json")
    assert said.code == 0, said.err
    assert "what coreml rounds is not simulated" in said.out


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
def test_what_makes_no_sense_is_told_before_any_work(
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
