"""edgekd init writes a recipe from a few answers; edgekd explain lists the origin of each value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from edgekd.recipe.load import load_recipe
from edgekd.recipe.schema import Recipe
from edgekd.tasks import TASKS
from tests.support.project import Project, assert_five_parts, tiny_recipe
from tests.support.terminal import in_a_terminal

FLAGS = ("--data", "data.py:blobs", "--student", "models.py:student", "--teacher",
         "models.py:teacher", "--target", "x86-cpu-onnx", "--epochs", "3")  # fmt: skip


@pytest.fixture
def bare(project: Project) -> Path:
    """A folder with the user's files and no recipe."""
    project.recipe.unlink()
    return project.folder


def test_flags_write_a_short_recipe_that_check_accepts(bare: Path, edgekd_cli: Any) -> None:
    said = edgekd_cli("init", bare, "--name", "first", *FLAGS, "--latency-p90-ms", "2.5",
                      "--size-bytes", "60000")  # fmt: skip
    assert said.code == 0, said.err
    text = (bare / "recipe.toml").read_text()
    assert len(text.splitlines()) < 25
    assert "budget = { latency_p90_ms = 2.5, size_bytes = 60000 }" in text
    assert "next: edgekd run" in said.out
    assert edgekd_cli("check", bare / "recipe.toml").code == 0


@pytest.mark.parametrize("task", TASKS)
def test_a_recipe_of_each_task_is_short_and_names_its_metric(
    bare: Path, edgekd_cli: Any, task: str
) -> None:
    said = edgekd_cli("init", bare, "--name", "first", *FLAGS, "--task", task, "--max-drop", "0.25",
                      "--device", "local", "--latency-p90-ms", "2.5")  # fmt: skip
    assert said.code == 0, said.err
    text = (bare / "recipe.toml").read_text()
    assert len(text.splitlines()) < 25
    recipe = load_recipe(bare / "recipe.toml")
    assert (recipe.task, recipe.accept.max_drop) == (task, 0.25)
    assert recipe.accept.metric == TASKS[task].default_metric
    assert recipe.distill is not None
    assert recipe.distill.losses[0].method == "hard"
    assert edgekd_cli("check", bare / "recipe.toml").code == 0


def test_a_metric_without_a_default_drop_needs_max_drop(bare: Path, edgekd_cli: Any) -> None:
    said = edgekd_cli("init", bare, *FLAGS, "--task", "regression")
    assert said.code == 2
    assert "--max-drop" in said.err
    assert_five_parts(said.err)
    alone = [word for word in FLAGS if word not in ("--teacher", "models.py:teacher")]
    assert edgekd_cli("init", bare, *alone, "--task", "regression").code == 0


def test_a_terminal_asks_until_the_answer_is_valid(bare: Path) -> None:
    answers = ["classifcation", "regression", "data.py:blobs", "models.py:student",
               "models.py:teacher", "much", "0.5", "x86-cpu-onnx", "fast", "2.5"]  # fmt: skip
    code, said = in_a_terminal(["init", str(bare), "--name", "first"], "\n".join(answers) + "\n")
    assert code == 0, said
    assert "one of: classification" in said
    assert said.count("a number, such as") == 2
    recipe = load_recipe(bare / "recipe.toml")
    assert (recipe.task, recipe.accept.metric) == ("regression", "mae")
    assert recipe.accept.max_drop == 0.5
    assert recipe.targets[0].budget.latency_p90_ms == 2.5


def test_a_recipe_needs_no_teacher_and_may_have_several_targets(
    bare: Path, edgekd_cli: Any
) -> None:
    said = edgekd_cli("init", bare, "--name", "first", "--data", "data.py:blobs", "--student",
                      "models.py:student", "--target", "x86-cpu-onnx", "--target",
                      "raspberry-pi-4-litert", "--device", "local", "--json")  # fmt: skip
    assert said.code == 0, said.err
    assert "train" not in said.json["stages"]
    assert (bare / "recipe.toml").read_text().count("[[targets]]") == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--data"),
        (("--data", "data.py:blobs", "--student", "models.py:none", "--target", "x86-cpu-onnx"),
         "no callable 'none'"),
        (("--data", "data.py:blobs", "--student", "models.py:student", "--target", "pixel"),
         "pixel"),
        (("--data", "data.py:blobs", "--student", "models.py:student", "--target", "x86-cpu-onnx",
          "--task", "classifcation"), "did you mean 'classification'?"),
        (("--data", "data.py:blobs", "--student", "models.py:student", "--target", "x86-cpu-onnx",
          "--size-bytes", "-5"), "in the answers"),
    ],
)  # fmt: skip
def test_a_wrong_answer_writes_nothing(
    bare: Path, edgekd_cli: Any, flags: tuple[str, ...], message: str
) -> None:
    said = edgekd_cli("init", bare, "--name", "first", *flags)
    assert said.code == 2
    assert_five_parts(said.err)
    assert message in said.err
    assert not list(bare.glob("*recipe*")) + list(bare.glob(".*recipe*"))


def test_an_existing_recipe_is_not_replaced(project: Project, edgekd_cli: Any) -> None:
    before = project.recipe.read_text()
    said = edgekd_cli("init", project.folder, "--name", "first", *FLAGS)
    assert said.code == 2
    assert_five_parts(said.err)
    assert project.recipe.read_text() == before
    assert edgekd_cli("init", project.folder, "--name", "first", *FLAGS, "--force").code == 0
    assert project.recipe.read_text() != before


def test_every_value_has_an_origin(project: Project, edgekd_cli: Any) -> None:
    document = tiny_recipe()
    document["targets"] = [{"name": "x86-cpu-onnx", "threads": 2}]
    project.recipe.write_text(tomli_w.dumps(document))
    said = edgekd_cli("explain", project.recipe, "--set", "distill.epochs=7", "--json")
    assert said.code == 0, said.err
    values = {value["key"]: (value["value"], value["origin"]) for value in said.json}
    assert values["distill.epochs"] == (7, "--set")
    assert values["name"] == ("tiny", "recipe")
    assert values["seed"] == (0, "default")
    assert values["distill.losses.1.weight"] == (0.9, "recipe")
    assert values["distill.losses.1.temperature"] == (4.0, "recipe")
    assert values["targets.0.threads"] == (2, "recipe")
    assert values["targets.0.format"] == ("onnx", "profile x86-cpu-onnx")
    assert values["targets.0.device"] == ("local", "profile x86-cpu-onnx")
    assert {key.partition(".")[0] for key in values} >= {
        name for name in Recipe.model_fields if name not in ("prune", "bundle")
    }
    plain = edgekd_cli("explain", project.recipe)
    assert plain.code == 0
    assert "recipe     name" in plain.out


def test_explain_reports_an_invalid_recipe_as_check_does(project: Project, edgekd_cli: Any) -> None:
    project.recipe.write_text("name = 3\n")
    said = edgekd_cli("explain", project.recipe)
    assert said.code == 2
    assert_five_parts(said.err)
