"""A loss, a task and a metric from outside the package, used through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.project import Project, assert_five_parts, tiny_recipe

LOSS = '''
def cubed(student_logits, teacher_logits, *, power=3.0):
    """Mean distance between the logits, raised to a power."""
    return (student_logits - teacher_logits).abs().pow(power).mean()
'''

METRIC = """
from edgekd.tasks import Metric


def balanced(outputs, targets):
    correct = (outputs.argmax(1) == targets).double()
    return sum(float(correct[targets == each].mean()) for each in targets.unique()) / 3


def wrong_frac(outputs, targets):
    return (outputs.argmax(1) != targets).double().mean()


WRONG_FRAC = Metric(wrong_frac, smaller_is_better=True)
"""

TASK = """
import torch
import edgekd
from torch.nn import functional as F
from edgekd.tasks import Metric


def one_against_all(student_logits, labels, *, margin=1.0):
    expected = 2.0 * F.one_hot(labels, student_logits.shape[1]) - 1.0
    return F.relu(margin - expected * student_logits).mean()


def hit_frac(outputs, targets):
    return float((outputs.argmax(1) == targets).double().mean())


def agreement(reference, outputs, labels):
    return float((reference.argmax(1) == outputs.argmax(1)).double().mean())


TASK = edgekd.Task(
    name="one-against-all",
    loss=one_against_all,
    metrics={"hit_frac": Metric(hit_frac)},
    agreement=agreement,
    agreement_name="same class",
    label_fault=lambda shape, labels: None,
    trial=((2, 3), torch.zeros(2, dtype=torch.int64)),
    classes_axis=-1,
)
"""

MODULES = {"losses": LOSS, "metrics": METRIC, "tasks": TASK}
ENTRY_POINTS = """
[edgekd.losses]
cubed = theirs_losses:cubed
[edgekd.metrics]
balanced = theirs_metrics:balanced
wrong_frac = theirs_metrics:WRONG_FRAC
[edgekd.tasks]
one-against-all = theirs_tasks:TASK
broken = theirs_missing:TASK
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a loss, metrics and tasks, installed beside edgekd; its folder."""
    site = tmp_path / "site"
    entry = site / "theirs-1.0.dist-info"
    entry.mkdir(parents=True)
    for name, code in MODULES.items():
        (site / f"theirs_{name}.py").write_text(code)
    (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (entry / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(site))
    return site


@pytest.fixture
def files(project: Project) -> Path:
    """The same code as files beside the recipe; their folder."""
    folder = project.folder / "app"
    folder.mkdir()
    for name, code in MODULES.items():
        (folder / f"{name}.py").write_text(code)
    return folder


def recipe_with(**tables: Any) -> dict[str, Any]:
    document = tiny_recipe()
    for key, value in tables.items():
        document[key] = {**document.get(key, {}), **value} if isinstance(value, dict) else value
    return document


def losses(method: str, **options: Any) -> dict[str, Any]:
    return {"losses": [{"method": "hard"}, {"method": method, **options}]}


def run(edgekd_cli: Any, project: Project, document: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    """The result of a run, and its folder."""
    done = edgekd_cli("run", project.write(document), "--out", project.folder / "runs", "--json")
    assert done.code == 0, done.err
    folder = (project.folder / "runs" / "tiny" / "latest").resolve()
    return json.loads((folder / "result.json").read_text()), folder


def history(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "distill" / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.usefixtures("installed")
def test_a_loss_of_an_installed_package_trains_the_student(
    edgekd_cli: Any, project: Project
) -> None:
    _, folder = run(edgekd_cli, project, recipe_with(distill=losses("cubed", power=2.0)))
    assert all("loss_cubed" in record for record in history(folder))


@pytest.mark.usefixtures("files")
def test_a_loss_of_a_file_trains_the_student_and_again_if_the_file_changes(
    edgekd_cli: Any, project: Project
) -> None:
    document = recipe_with(distill=losses("app/losses.py:cubed"))
    result, folder = run(edgekd_cli, project, document)
    assert all("loss_cubed" in record for record in history(folder))
    assert "distill" not in result["reused"]
    result, _ = run(edgekd_cli, project, document)
    assert "distill" in result["reused"]
    (project.folder / "app" / "losses.py").write_text(LOSS.replace("mean()", "mean() * 2"))
    result, again = run(edgekd_cli, project, document)
    assert "distill" not in result["reused"]
    assert history(again) != history(folder)


def test_a_changed_loss_outside_the_recipes_folder_trains_the_student_again(
    edgekd_cli: Any, project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("elsewhere") / "losses.py"
    file.write_text(LOSS)
    document = recipe_with(distill=losses(f"{file}:cubed"))
    run(edgekd_cli, project, document)
    file.write_text(LOSS.replace("mean()", "mean() * 2"))
    result, _ = run(edgekd_cli, project, document)
    assert "distill" not in result["reused"]


@pytest.mark.usefixtures("installed")
def test_a_metric_of_an_installed_package_scores_every_candidate(
    edgekd_cli: Any, project: Project
) -> None:
    result, _ = run(edgekd_cli, project, recipe_with(accept={"metric": "wrong_frac"}))
    assert result["metric"] == "wrong_frac"
    assert result["smaller_is_better"] is True
    assert 0 <= result["rows"][0]["agreement"]["metric"] < 0.5


@pytest.mark.usefixtures("files")
def test_a_metric_of_a_file_scores_every_candidate(edgekd_cli: Any, project: Project) -> None:
    result, _ = run(edgekd_cli, project, recipe_with(accept={"metric": "app/metrics.py:balanced"}))
    assert result["metric"] == "app/metrics.py:balanced"
    assert 0.5 < result["teacher"]["metric"] <= 1
    assert 0.5 < result["rows"][0]["agreement"]["metric"] <= 1


@pytest.mark.usefixtures("installed")
def test_a_task_of_an_installed_package_runs_from_recipe_to_bundle(
    edgekd_cli: Any, project: Project
) -> None:
    document = recipe_with(task="one-against-all", version="1.0.0", bundle={"kinds": ["folder"]})
    result, folder = run(edgekd_cli, project, document)
    assert result["metric"] == "hit_frac"
    assert result["rows"][0]["agreement"]["task_agreement"] > 0.9
    (manifest,) = folder.glob("bundle/**/manifest.json")
    assert json.loads(manifest.read_text())["task"] == "one-against-all"


@pytest.mark.usefixtures("files")
def test_a_task_of_a_file_trains_with_its_own_loss_and_its_options(
    edgekd_cli: Any, project: Project
) -> None:
    document = recipe_with(task="app/tasks.py:TASK")
    document["distill"]["losses"][0]["margin"] = 0.5
    result, _ = run(edgekd_cli, project, document)
    assert result["metric"] == "hit_frac"
    assert result["student"]["metric"] > 0.5


UNKNOWN = {
    "a task": ({"task": "clasification"}, ":task", "classification"),
    "a task in a file": ({"task": "app/tasks.py:TASKS"}, ":task", "TASK"),
    "a file of tasks": ({"task": "app/task.py:TASK"}, ":task", "tasks.py"),
    "a metric": ({"accept": {"metric": "balanced_acuracy"}}, "accept.metric", "balanced_accuracy"),
    "a metric in a file": (
        {"accept": {"metric": "app/metrics.py:ballanced"}},
        "accept.metric",
        "balanced",
    ),
    "a loss": ({"distill": losses("soft_targt")}, "distill.losses[1].method", "soft_target"),
    "a loss in a file": (
        {"distill": losses("app/losses.py:cubd")},
        "distill.losses[1].method",
        "cubed",
    ),
    "an option of a loss in a file": (
        {"distill": losses("app/losses.py:cubed", pover=2.0)},
        "distill.losses[1].pover",
        "power",
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.usefixtures("files")
def test_an_unknown_name_is_reported_with_the_nearest_one(
    name: str, edgekd_cli: Any, project: Project
) -> None:
    tables, key, close = UNKNOWN[name]
    done = edgekd_cli("check", project.write(recipe_with(**tables)))
    assert done.code == 2
    assert_five_parts(done.err)
    assert key in done.err
    assert f"did you mean '{close}'?" in done.err


@pytest.mark.usefixtures("files")
def test_all_unknown_names_are_reported_at_once(edgekd_cli: Any, project: Project) -> None:
    document = recipe_with(task="app/tasks.py:TSK", distill=losses("app/losses.py:cubd"), seed=-1)
    done = edgekd_cli("check", project.write(document))
    assert done.code == 2
    for part in ("did you mean 'TASK'?", "did you mean 'cubed'?", ":seed"):
        assert part in done.err


@pytest.mark.usefixtures("installed")
def test_a_package_that_cannot_be_imported_is_reported_only_where_it_is_named(
    edgekd_cli: Any, project: Project
) -> None:
    assert edgekd_cli("check", project.write(recipe_with())).code == 0
    done = edgekd_cli("check", project.write(recipe_with(task="broken")))
    assert done.code == 2
    assert "The entry point 'broken' of edgekd.tasks cannot be loaded." in done.err
    assert "theirs_missing" in done.err


@pytest.mark.usefixtures("files")
def test_a_metric_that_fails_is_reported_as_the_metric(edgekd_cli: Any, project: Project) -> None:
    (project.folder / "app" / "metrics.py").write_text("def balanced(outputs): return 0.5\n")
    document = recipe_with(accept={"metric": "app/metrics.py:balanced"})
    done = edgekd_cli("check", project.write(document))
    assert done.code == 2
    assert "The metric 'app/metrics.py:balanced' failed." in done.err
