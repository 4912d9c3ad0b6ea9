"""The distillation of a recipe, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.project import Project, assert_five_parts, tiny_recipe

MORE = """

class Stacked(nn.Module):
    def __init__(self, width=16, depth=4):
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth)
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)
"""


@pytest.fixture
def stacked(project: Project) -> dict[str, Any]:
    """A recipe whose teacher has blocks."""
    models = project.folder / "models.py"
    models.write_text(models.read_text() + MORE)
    document = tiny_recipe()
    document["teacher"]["load"] = "models.py:Stacked"
    return document


def distilled(project: Project, edgekd_cli: Any, document: dict[str, Any]) -> Any:
    project.write(document)
    out = project.folder / "runs"
    return edgekd_cli("run", project.recipe, "--out", out, "--until", "distill", "--json")


def weights(said: Any) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(
        Path(said.json["run"]) / "distill" / "weights.safetensors"
    )
    return found


def test_losses_compare_inner_layers_by_their_paths(
    project: Project, stacked: dict[str, Any], edgekd_cli: Any
) -> None:
    hint = {"method": "hint", "student_layer": "0", "teacher_layer": "blocks.3", "weight": 0.1}
    stacked["distill"]["losses"].append(hint)
    said = distilled(project, edgekd_cli, stacked)
    assert said.code == 0, said.err
    assert "losses need its blocks.3" in said.err
    records = (Path(said.json["run"]) / "distill" / "history.jsonl").read_text().splitlines()
    assert all("loss_hint" in json.loads(record) for record in records)


def test_a_wrong_layer_stops_the_run_before_the_teacher_is_trained(
    project: Project, stacked: dict[str, Any], edgekd_cli: Any
) -> None:
    hint = {"method": "hint", "student_layer": "0", "teacher_layer": "block.3"}
    stacked["distill"]["losses"].append(hint)
    said = distilled(project, edgekd_cli, stacked)
    assert said.code == 2
    assert_five_parts(said.err)
    assert "did you mean 'blocks.3'?" in said.err
    assert "train 1/3" not in said.err


def test_an_unavailable_precision_is_an_error_before_the_teacher_is_trained(
    project: Project, edgekd_cli: Any
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is an accelerator")
    document = tiny_recipe()
    document["distill"]["precision"] = "fp16"
    said = distilled(project, edgekd_cli, document)
    assert said.code == 2
    assert_five_parts(said.err)
    assert "train 1/3" not in said.err


def test_a_student_of_every_second_block_starts_from_its_teachers_weights(
    project: Project, stacked: dict[str, Any], edgekd_cli: Any
) -> None:
    stacked["student"] = {"load": "teacher", "blocks": "blocks"}
    stacked["distill"]["optimizer"] = {"name": "sgd", "learning_rate": 1e-20}
    said = distilled(project, edgekd_cli, stacked)
    assert said.code == 0, said.err
    teacher = load_file(Path(said.json["run"]) / "train" / "weights.safetensors")
    student = weights(said)
    assert {name.split(".")[1] for name in student if name.startswith("blocks")} == {"0", "1"}
    assert torch.equal(student["blocks.1.0.weight"], teacher["blocks.2.0.weight"])
    assert torch.equal(student["head.weight"], teacher["head.weight"])


def test_a_student_can_have_half_the_width_of_its_teacher(
    project: Project, stacked: dict[str, Any], edgekd_cli: Any
) -> None:
    stacked["student"] = {"load": "teacher", "width": 0.5}
    said = distilled(project, edgekd_cli, stacked)
    assert said.code == 0, said.err
    assert weights(said)["stem.weight"].shape == (8, 8)
    assert weights(said)["head.weight"].shape == (3, 8)


def test_a_teacher_that_cannot_be_narrower_is_an_error_before_any_work(
    project: Project, stacked: dict[str, Any], edgekd_cli: Any
) -> None:
    stacked["teacher"]["options"] = {"width": 8}
    stacked["student"] = {"load": "teacher", "width": 0.5}
    said = distilled(project, edgekd_cli, stacked)
    assert said.code == 2
    assert_five_parts(said.err)
    assert "No layer of the teacher can be made narrower." in said.err
    assert "train 1/3" not in said.err


def test_an_unknown_list_of_blocks_is_an_error(
    project: Project, stacked: dict[str, Any], edgekd_cli: Any
) -> None:
    stacked["student"] = {"load": "teacher", "blocks": "block"}
    said = distilled(project, edgekd_cli, stacked)
    assert said.code == 2
    assert "did you mean 'blocks'?" in said.err


def test_each_generation_teaches_the_next(project: Project, edgekd_cli: Any) -> None:
    document = tiny_recipe()
    document["distill"]["generations"] = 2
    said = distilled(project, edgekd_cli, document)
    assert said.code == 0, said.err
    folder = Path(said.json["run"]) / "distill"
    first, second = (
        load_file(folder / f"generation-{number}" / "weights.safetensors") for number in (1, 2)
    )
    assert not torch.equal(first["0.weight"], second["0.weight"])


def test_several_teachers_share_a_cache_that_is_reused(
    project: Project, stacked: dict[str, Any], edgekd_cli: Any
) -> None:
    more = [{"load": "models.py:Stacked", "options": {"depth": 2}, "weight": 2.0}]
    stacked["distill"].update(more_teachers=more, combine="best")
    said = distilled(project, edgekd_cli, stacked)
    assert said.code == 0, said.err
    cached = list((project.folder / "runs/tiny/store/teacher_outputs").rglob("*.npy"))
    stamps = {path: path.stat().st_mtime_ns for path in cached}
    assert len({path.parent.parent for path in cached}) == 2
    # Another student of the same teachers: they are not asked again.
    stacked["student"] = {"load": "models.py:net", "options": {"width": 10}}
    assert distilled(project, edgekd_cli, stacked).code == 0
    again = list((project.folder / "runs/tiny/store/teacher_outputs").rglob("*.npy"))
    assert {path: path.stat().st_mtime_ns for path in again} == stamps


@pytest.mark.converter
def test_a_teacher_can_be_a_file(project: Project, edgekd_cli: Any) -> None:
    reference = f"{project.folder / 'models.py'}:teacher"
    out = project.folder / "teacher"
    made = edgekd_cli(
        "export", reference, "--format", "onnx", "--example", "input=1x8", "--out", out
    )
    assert made.code == 0, made.err
    document = tiny_recipe()
    document["teacher"] = {"load": "teacher/onnx-fp32/model.onnx"}
    path = next(out.rglob("*.onnx"))
    document["teacher"]["load"] = str(path.relative_to(project.folder))
    said = distilled(project, edgekd_cli, document)
    assert said.code == 0, said.err
    assert said.json["teacher"]["parameters"] is None
    assert said.json["teacher"]["metric"] <= 1.0
    hint = {"method": "hint", "student_layer": "0", "teacher_layer": "0"}
    document["distill"]["losses"].append(hint)
    project.write(document)
    refused = edgekd_cli("check", project.recipe)
    assert refused.code == 2
    assert "Only the output of a teacher that is a file is known" in refused.err
    assert "distill.losses[2].teacher_layer" in refused.err


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"load": "teacher.onnx"}, "There is no file"),
        ({"load": "outputs:there.safetensors", "train": {"epochs": 1}}, "cannot be trained"),
        ({"load": "outputs:there.safetensors"}, "has no outputs for augmented views"),
        ({"load": "outputs:short.safetensors"}, "does not match this data"),
    ],
)
def test_an_unsuitable_teacher_file_is_an_error(
    teacher: dict[str, Any], message: str, project: Project, edgekd_cli: Any
) -> None:
    save_file({"train": torch.zeros(240, 3)}, project.folder / "there.safetensors")
    save_file({"train": torch.zeros(2, 3)}, project.folder / "short.safetensors")
    document = tiny_recipe()
    document["teacher"] = teacher
    said = distilled(project, edgekd_cli, document)
    assert said.code == 2
    assert_five_parts(said.err)
    assert message in said.err


def test_curves_go_to_tensorboard_and_mlflow(
    project: Project, edgekd_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    uri = (project.folder / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    said = distilled(project, edgekd_cli, tiny_recipe())
    assert said.code == 0, said.err
    folder = Path(said.json["run"]) / "distill"
    records = [json.loads(row) for row in (folder / "history.jsonl").read_text().splitlines()]
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    losses = [event.value for event in board.Scalars("distill/loss")]
    assert losses == pytest.approx([record["loss"] for record in records])
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    found = next(run for run in runs if run.info.run_name.endswith("/distill"))
    values = [entry.value for entry in client.get_metric_history(found.info.run_id, "loss")]
    assert values == pytest.approx([record["loss"] for record in records])
