"""Each task through the command line, with files of two formats judged by its metric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekd.formats import FORMATS
from tests.support.project import Project, assert_five_parts, tiny_recipe
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter

DATA = """
import torch
from torch.utils.data import TensorDataset
import edgekd


def splits_of(make):
    generator = torch.Generator().manual_seed(7)
    splits = [TensorDataset(*make(n, generator)) for n in (240, 60, 120)]
    return edgekd.Data(*splits, slices={"first": list(range(60)), "few": [3, 4]})


def numbers():
    def make(n, generator):
        x = torch.randn(n, 8, generator=generator)
        return x, 10 * x[:, 0] + 5 * x[:, 1].abs()
    return splits_of(make)


def groups():
    centres = 2.0 * torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    def make(n, generator):
        labels = torch.randint(0, 4, (n,), generator=generator)
        return centres[labels] + torch.randn(n, 8, generator=generator), labels
    return splits_of(make)


def images():
    def make(n, generator):
        x = torch.randn(n, 1, 8, 8, generator=generator)
        labels = (x[:, 0] > 0).long() + (x[:, 0] > 1).long()
        labels[:, :, 0] = -100
        return x, labels
    return splits_of(make)


def sentences():
    def make(n, generator):
        words = torch.randint(1, 12, (n, 6), generator=generator)
        labels = words % 3
        padding = torch.arange(6)[None] >= torch.randint(2, 7, (n, 1), generator=generator)
        return words.masked_fill(padding, 0), labels.masked_fill(padding, -100)
    return splits_of(make)


def one_class_a_sentence():
    data = sentences()
    first = TensorDataset(data.train.tensors[0], data.train.tensors[1][:, 0])
    return edgekd.Data(first, data.validation, data.test)


def a_slice_of_nothing():
    data = groups()
    return edgekd.Data(data.train, data.validation, data.test, slices={"night": [120]})
"""

MODELS = """
from torch import nn


def numbers(width=16):
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 1))


def groups(width=16):
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 6))


def images(width=8):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 1)
    )


def sentences(width=8):
    return nn.Sequential(nn.Embedding(12, width), nn.Linear(width, width), nn.ReLU(),
                         nn.Linear(width, 3))
"""

TASKS = {
    "regression": ("numbers", "mean_squared", {}, "mae"),
    "embedding": ("groups", "cosine_embedding", {"student_layer": "2", "teacher_layer": "2"},
                  "neighbour_accuracy"),
    "segmentation": ("images", "soft_target", {"temperature": 2.0}, "pixel_accuracy"),
    "token-classification": ("sentences", "soft_target", {"temperature": 2.0}, "token_accuracy"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _converters() -> None:
    for name in ("onnx", "openvino"):
        need_modules(*FORMATS[name].PACKAGES)


def task_recipe(project: Project, task: str) -> dict[str, Any]:
    """A recipe of `task`, its data and networks written into the project."""
    (project.folder / "data.py").write_text(DATA)
    (project.folder / "models.py").write_text(MODELS)
    load, method, options, _ = TASKS[task]
    document = tiny_recipe()
    document["task"] = task
    document["data"]["load"] = f"data.py:{load}"
    for role, width in (("teacher", 24), ("student", 6)):
        document[role] |= {"load": f"models.py:{load}", "options": {"width": width}}
    document["distill"]["losses"] = [
        {"method": "hard", "weight": 0.5},
        {"method": method, "weight": 0.5, **options},
    ]
    document["accept"] = {
        "max_drop": 20.0 if task == "regression" else 0.9,
        "min_agreement": 0.95,
        "slices": {"max_drop": 20.0 if task == "regression" else 0.9},
    }
    document["targets"] = [{"name": "x86-cpu-onnx"}, {"name": "x86-cpu-openvino"}]
    return document


@pytest.mark.parametrize("task", TASKS)
def test_a_recipe_of_each_task_makes_files_judged_by_its_metric(
    task: str, project: Project, edgekd_cli: Any
) -> None:
    document = task_recipe(project, task)
    out = project.folder / "runs"
    said = edgekd_cli("run", project.write(document), "--out", out, "--json")
    assert said.code == 0, said.err
    result = said.json
    assert result["metric"] == TASKS[task][3]
    assert result["smaller_is_better"] == (task == "regression")
    assert [row["outcome"] for row in result["rows"]] == ["passed", "passed"]
    assert result["student"]["teacher_agreement"] <= 1
    assert set(result["teacher"]["slices"]) == {"first", "few"}
    for row in result["rows"]:
        agreement = row["agreement"]
        assert agreement["task_agreement"] == pytest.approx(1, abs=0.02)
        assert agreement["metric"] == pytest.approx(result["student"]["metric"], abs=0.05)
        assert set(agreement["slices"]) == {"first", "few"}
        assert (agreement["top1_agreement_frac"] is None) == (task in ("regression", "embedding"))
    history = (Path(result["run"]) / "distill" / "history.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in history]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("task", TASKS)
def test_the_recipe_that_init_writes_trains_the_task(
    task: str, project: Project, edgekd_cli: Any
) -> None:
    task_recipe(project, task)  # For its data and networks alone.
    load = TASKS[task][0]
    said = edgekd_cli(
        "init", project.folder, "--name", "first", "--task", task, "--data", f"data.py:{load}",
        "--teacher", f"models.py:{load}", "--student", f"models.py:{load}", "--target",
        "x86-cpu-onnx", "--max-drop", "0.5", "--epochs", "2", "--force",
    )  # fmt: skip
    assert said.code == 0, said.err
    recipe, out = project.folder / "recipe.toml", project.folder / "runs"
    said = edgekd_cli("run", recipe, "--out", out, "--until", "distill", "--json")
    assert said.code == 0, said.err
    assert said.json["metric"] == TASKS[task][3]


def test_a_metric_that_is_an_error_may_not_grow_too_much(project: Project, edgekd_cli: Any) -> None:
    document = task_recipe(project, "regression")
    document["accept"] = {"metric": "rmse", "max_drop": 0.001}
    document["targets"] = document["targets"][:1]
    document["distill"]["optimizer"] = {"learning_rate": 1e-9}
    said = edgekd_cli("run", project.write(document), "--out", project.folder / "runs", "--json")
    assert said.code == 7
    assert "rmse is" in said.json["rows"][0]["detail"]
    assert "more than 0.001 over the teacher's" in said.json["rows"][0]["detail"]


def test_the_worst_slice_alone_can_fail_a_file(project: Project, edgekd_cli: Any) -> None:
    document = task_recipe(project, "embedding")
    document["targets"] = document["targets"][:1]
    document["distill"]["optimizer"] = {"learning_rate": 1e-9}
    document["accept"] = {"max_drop": 1.0, "slices": {"max_drop": 0.0, "min_count": 2}}
    said = edgekd_cli("run", project.write(document), "--out", project.folder / "runs", "--json")
    row = said.json["rows"][0]
    teacher, student = said.json["teacher"]["slices"], row["agreement"]["slices"]
    drops = {name: teacher[name] - student[name] for name in teacher}
    worst = max(drops, key=lambda name: drops[name])
    assert drops[worst] > 0
    assert said.code == 7
    assert f"of slice '{worst}'" in row["detail"]
    document["accept"]["slices"]["min_count"] = 61  # More than any slice has: none is judged.
    said = edgekd_cli("run", project.write(document), "--out", project.folder / "runs", "--json")
    assert said.code == 0, said.json["rows"]


WRONG = {
    "labels of another shape": ({"data": {"load": "data.py:one_class_a_sentence"}}, "token",
                                "batch x tokens"),
    "a slice that is none": ({"data": {"load": "data.py:a_slice_of_nothing"}, "task": "embedding",
                              "student": {"load": "models.py:groups"},
                              "teacher": {"load": "models.py:groups"}}, "night", "0 to 119"),
    "a metric of another task": ({"accept": {"metric": "rmse"}}, "accept.metric", "token_accuracy"),
    "a drop over all of it": ({"accept": {"max_drop": 1.5}}, "accept.max_drop", "is a fraction"),
    "slices that are not there": ({"accept": {"slices": {"max_drop": 0.1}},
                                   "data": {"load": "data.py:bare"}}, "accept.slices",
                                  "named groups of test samples"),
    "numbers for classes": ({"task": "embedding", "accept": {"metric": "cosine"},
                             "student": {"load": "models.py:groups"}, "data": {"load":
                             "data.py:groups"}, "teacher": {"load": "models.py:groups"}},
                            "cosine", "neighbour_accuracy"),
    "probabilities of pixels": ({"task": "segmentation", "export": {"outputs": "probabilities"}},
                                "export.outputs", "token-classification"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_settings_that_do_not_fit_the_task_are_errors_before_any_work(
    name: str, project: Project, edgekd_cli: Any
) -> None:
    changes, *messages = WRONG[name]
    document = task_recipe(project, "token-classification")
    with (project.folder / "data.py").open("a") as file:
        file.write(
            "\n\ndef bare():\n    d = sentences()\n"
            "    return edgekd.Data(d.train, d.validation, d.test)\n"
        )
    document["distill"]["losses"] = [{"method": "hard"}]
    del document["accept"]["slices"]
    said = edgekd_cli("run", project.write(document | changes), "--out", project.folder / "runs")
    assert said.code == 2
    assert_five_parts(said.err)
    assert all(message in said.err for message in messages), said.err
    assert "train 1/3" not in said.err
