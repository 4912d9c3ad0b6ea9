from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekd.errors import RecipeError
from edgekd.pipeline.extensions import known_names
from edgekd.recipe.load import load_recipe, parse_recipe
from edgekd.recipe.schema import Recipe
from edgekd.system.toml import read_toml
from tests.support.project import Project, assert_five_parts, tiny_recipe

KNOWN = known_names()

CONTRACT = """
name = "keyword-spotter"
version = "1.2.0"
task = "classification"
seed = 0
[data]
load = "app/data.py:speech"
options = { root = "data/" }
[teacher]
load = "app/models.py:resnet"
weights = "teacher.safetensors"
[student]
load = "app/models.py:ds_cnn"
[distill]
epochs = 30
batch_size = 128
optimizer = { name = "adamw", learning_rate = 2e-3, weight_decay = 1e-2 }
schedule = "cosine"
teacher_outputs = "cached"
[[distill.losses]]
method = "hard"
weight = 0.1
[[distill.losses]]
method = "soft_target"
weight = 0.9
temperature = 4.0
[prune]
method = "structured"
keep = 0.6
measure = "macs"
recover_epochs = 10
[quantize]
schemes = ["fp32", "fp16", "int8"]
calibration = "digits-128"
qat_epochs = 0
[accept]
metric = "accuracy"
max_drop = 0.01
min_agreement = 0.99
[[targets]]
name = "raspberry-pi-5-litert"
device = "ssh://pi@pi5.local"
budget = { latency_p90_ms = 5.0, size_bytes = 500_000, peak_memory_bytes = 60_000_000 }
prefer = "accuracy"
required = true
[bundle]
kinds = ["folder", "android", "swift"]
android = { group = "com.acme.models" }
"""


def faults_of(document: dict[str, Any]) -> dict[str, Any]:
    """The faults of a recipe by key path."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(document, "recipe.toml", KNOWN)
    for fault in caught.value.faults:
        assert_five_parts(str(fault))
    return {fault.at.removeprefix("recipe.toml:"): fault for fault in caught.value.faults}


def test_a_recipe_with_every_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(CONTRACT)
    recipe = load_recipe(path)
    assert recipe.distill is not None
    assert recipe.distill.losses[1].options == {"temperature": 4.0}
    assert recipe.targets[0].budget.to_budget().percentiles == {0.9: 5.0}


def test_the_tiny_recipe_and_the_example_are_valid() -> None:
    parse_recipe(tiny_recipe(), "recipe.toml", KNOWN)
    example = Path(__file__).parents[3] / "examples" / "sensor" / "recipe.toml"
    load_recipe(example, KNOWN)


def test_all_faults_are_reported_at_once_with_key_value_rule_and_nearest_name() -> None:
    document = tiny_recipe()
    document["tsk"] = "classification"
    document["distill"]["epoch"] = 3
    document["distill"]["batch_size"] = 0
    document["distill"]["losses"][1] = {"method": "soft_targt"}
    document["quantize"]["schemes"] = ["int9"]
    document["accept"]["metric"] = "acuracy"
    document["targets"][0]["name"] = "x86-cpu-onx"
    document["targets"][0]["budget"] = {"latency_p90": 1.0}
    del document["student"]["load"]
    faults = faults_of(document)
    assert {key: fault.fix for key, fault in faults.items()} == {
        "tsk": "did you mean 'task'?",
        "distill.epoch": "did you mean 'epochs'?",
        "distill.batch_size": "change distill.batch_size in recipe.toml",
        "distill.losses[1].method": "did you mean 'soft_target'?",
        "quantize.schemes[0]": "did you mean 'int8'?",
        "accept.metric": "did you mean 'accuracy'?",
        "targets[0].name": "did you mean 'x86-cpu-onnx'?",
        "targets[0].budget.latency_p90": "did you mean 'latency_p90_ms'?",
        "student.load": "add student.load to recipe.toml",
    }
    assert faults["distill.batch_size"].got == "0"
    assert faults["distill.batch_size"].expected == "an integer of at least 1"


@pytest.mark.parametrize(
    ("table", "value"), [("prune", {"keep": 0.5}), ("route", {}), ("bundle", {})]
)
def test_a_table_without_its_stage_is_refused_not_ignored(
    table: str, value: dict[str, Any]
) -> None:
    known = replace(known_names(), stages=["train", "distill", "export"])
    with pytest.raises(RecipeError) as caught:
        parse_recipe({**tiny_recipe(), table: value}, "recipe.toml", known)
    fault = next(each for each in caught.value.faults if each.at == f"recipe.toml:{table}")
    assert "no stage" in fault.what


@pytest.mark.parametrize(
    ("change", "key", "expected"),
    [
        ({"name": "a b"}, "name", "letters"),
        ({"seed": True}, "seed", "an integer"),
        ({"targets": []}, "targets", "at least one"),
        ({"targets": [{"name": "x86-cpu-onnx"}] * 2}, "targets", "each target only once"),
        ({"prune": {"keep": 1.5}}, "prune.keep", "a number in (0, 1]"),
        ({"task": "clasification"}, "task", "one of classification"),
    ],
)
def test_an_invalid_value_is_reported_with_its_rule(
    change: dict[str, Any], key: str, expected: str
) -> None:
    assert expected in faults_of({**tiny_recipe(), **change})[key].expected


def test_a_loss_reports_missing_and_unknown_options() -> None:
    document = tiny_recipe()
    document["distill"]["losses"] = [
        {"method": "soft_target"},
        {"method": "soft_target", "temperature": 1.0, "temprature": 2.0},
    ]
    faults = faults_of(document)
    assert faults["distill.losses[0].temperature"].got == "nothing"
    assert faults["distill.losses[1].temprature"].fix == "did you mean 'temperature'?"


def test_distillation_needs_a_teacher() -> None:
    document = tiny_recipe()
    del document["teacher"]
    assert "a [teacher] table, which [distill]" in faults_of(document)["teacher"].expected


def test_settings_override_the_recipe(project: Project) -> None:
    recipe = load_recipe(
        project.recipe,
        KNOWN,
        ["distill.epochs=7", "targets.0.prefer=size", 'quantize.schemes=["fp16"]', "seed=3"],
    )
    assert recipe.distill is not None
    assert (recipe.distill.epochs, recipe.seed) == (7, 3)
    assert recipe.targets[0].prefer == "size"
    assert recipe.quantize.schemes == ["fp16"]


@pytest.mark.parametrize("setting", ["epochs", "targets.5.prefer=size", "name.x=1", "=3"])
def test_a_setting_without_a_key_is_refused(project: Project, setting: str) -> None:
    with pytest.raises(RecipeError, match="cannot be applied to the recipe"):
        load_recipe(project.recipe, KNOWN, [setting])


def test_a_missing_file_and_invalid_toml_are_reported(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        read_toml(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(RecipeError, match="is not valid TOML"):
        read_toml(broken)


def test_the_schema_has_every_table() -> None:
    assert {"data", "teacher", "student", "distill", "prune", "quantize", "accept"} <= set(
        Recipe.model_json_schema()["properties"]
    )
