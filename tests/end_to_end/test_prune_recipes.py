"""The pruning of a recipe, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.project import Project, assert_five_parts, tiny_recipe
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter

MORE = """

class Wide(nn.Module):
    def __init__(self, width=64, depth=4):
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class Huge(Wide):
    def __init__(self):
        super().__init__(width=256, depth=3)


class Outside(nn.Module):
    def forward(self, x):
        return x.numpy().sum(1)


class Stateful(Wide):
    def __init__(self):
        super().__init__()
        self.outside = Outside()

    def forward(self, x):
        self.outside(self.stem(x))
        return super().forward(x)
"""


@pytest.fixture
def wide(project: Project) -> dict[str, Any]:
    """A recipe whose student is its teacher, pruned."""
    need_modules("torch_pruning", "onnx", "onnxscript", "onnxruntime")
    models = project.folder / "models.py"
    models.write_text(models.read_text() + MORE)
    document = tiny_recipe()
    document["teacher"]["load"] = "models.py:Wide"
    document["student"]["load"] = "teacher"
    document["prune"] = {"keep": 0.5, "recover_epochs": 2}
    return document


def ran(project: Project, edgekd_cli: Any, document: dict[str, Any], *args: str) -> Any:
    project.write(document)
    return edgekd_cli("run", project.recipe, "--out", project.folder / "runs", "--json", *args)


def test_a_pruned_student_is_timed_beside_the_unpruned_one_and_ships_if_faster(
    project: Project, wide: dict[str, Any], edgekd_cli: Any
) -> None:
    wide["teacher"]["load"] = "models.py:Huge"
    wide["prune"] = {"keep": 0.1, "recover_epochs": 2, "scan": True, "importance": "taylor"}
    del wide["distill"]
    said = ran(project, edgekd_cli, wide)
    assert said.code == 0, said.err
    result = said.json
    assert result["student"]["macs"] <= 0.1 * result["unpruned"]["macs"]
    assert result["unpruned"]["parameters"] == result["teacher"]["parameters"]
    rows = {row["network"]: row for row in result["rows"]}
    assert rows["student"]["agreement"]["metric"] == pytest.approx(result["student"]["metric"])
    assert rows["unpruned"]["agreement"]["metric"] == pytest.approx(result["unpruned"]["metric"])
    ratio = rows["student"]["measurement"]["unpruned_ratio"]
    assert ratio["parent"] == "unpruned-fp32"
    pays = ratio["high"] < 0.99
    assert result["chosen"]["x86-cpu-onnx"]["network"] == ("student" if pays else "unpruned")
    assert ("does not pay on x86-cpu-onnx" in rows["student"]["detail"]) == (not pays)
    assert (
        rows["student"]["artifact"]["zipped_bytes"] < rows["unpruned"]["artifact"]["zipped_bytes"]
    )
    folder = Path(result["run"])
    cut = json.loads((folder / "prune" / "cut" / "pruned.json").read_text())
    layers = {each["layer"] for each in cut["scanned"]}
    assert "blocks.0.0" in layers
    assert all(len(each["losses"]) == len(each["metrics"]) == 4 for each in cut["scanned"])
    history = (folder / "prune" / "recovered" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in history] == [1.0, 2.0]
    shown = edgekd_cli("run", project.recipe, "--out", project.folder / "runs")
    assert "time / unpruned" in shown.out
    assert "of the macs is left" in shown.out
    assert "prune (2)" in shown.out, "a second run does only what changed"


@pytest.mark.parametrize(
    ("prune", "zeros"),
    [
        ({"method": "unstructured", "keep": 0.25, "scope": "global"}, 0.75),
        ({"method": "unstructured", "keep": 0.4, "steps": 2, "measure": "parameters"}, 0.6),
        ({"method": "n-m", "keep": 0.5, "pattern": "2:4"}, 0.5),
    ],
)
def test_zeros_survive_training_and_export_and_the_result_says_which_runtimes_profit(
    project: Project, wide: dict[str, Any], edgekd_cli: Any, prune: dict[str, Any], zeros: float
) -> None:
    import onnx
    from onnx import numpy_helper

    wide["prune"] = {**prune, "recover_epochs": 2}
    said = ran(project, edgekd_cli, wide)
    assert said.code == 0, said.err
    result = said.json
    assert result["pruning"]["kept_frac"] == pytest.approx(prune["keep"], abs=0.01)
    assert result["pruning"]["zero_frac"] == pytest.approx(zeros, abs=0.01)
    assert result["student"]["parameters"] == result["unpruned"]["parameters"]
    assert "no faster" in result["pruning"]["profits"]["onnx"]
    row = result["rows"][0]
    model = onnx.load(row["artifact"]["path"])
    weights = [numpy_helper.to_array(each) for each in model.graph.initializer]
    weights = [each for each in weights if each.ndim == 2]
    left = sum((each != 0).sum() for each in weights) / sum(each.size for each in weights)
    assert left == pytest.approx(1 - zeros, abs=0.01)
    if prune["method"] == "n-m":
        last = next(Path(result["run"], "prune").glob("recovered*"))
        trained = load_file(last / "weights.safetensors")
        weight = trained["blocks.1.0.weight"].view(-1, 4)
        assert ((weight != 0).sum(1) <= 2).all()
        assert ((weight != 0).sum(1) == 2).float().mean() > 0.99
    whole = next(each for each in result["rows"] if each["network"] == "unpruned")
    assert row["artifact"]["zipped_bytes"] < 0.8 * whole["artifact"]["zipped_bytes"]
    assert edgekd_cli("check", project.recipe).out.count("no faster") == 1


def test_recovery_trains_the_kept_weights_and_the_others_stay_zero(
    project: Project, wide: dict[str, Any], edgekd_cli: Any
) -> None:
    wide["prune"] = {"method": "unstructured", "keep": 0.5, "recover_epochs": 1}
    said = ran(project, edgekd_cli, wide, "--until", "prune")
    folder = Path(said.json["run"]) / "prune"
    masks = load_file(folder / "cut" / "masks.safetensors")
    trained = load_file(folder / "recovered" / "weights.safetensors")
    for name, mask in masks.items():
        assert (trained[name][~mask] == 0).all()
        assert (trained[name][mask] != 0).all()


def test_each_pruning_step_keeps_less_and_is_followed_by_recovery(
    project: Project, wide: dict[str, Any], edgekd_cli: Any
) -> None:
    wide["prune"] = {"keep": 0.25, "steps": 2, "recover_epochs": 3, "round_to": 1}
    said = ran(project, edgekd_cli, wide, "--until", "prune")
    assert said.code == 0, said.err
    folder = Path(said.json["run"]) / "prune"
    kept = [
        json.loads((folder / f"cut-{number}" / "pruned.json").read_text())["kept_frac"]
        for number in (1, 2)
    ]
    assert 0.45 < kept[0] <= 0.5
    assert 0.22 < kept[1] <= 0.25
    epochs = [
        len((folder / f"recovered-{number}" / "history.jsonl").read_text().splitlines())
        for number in (1, 2)
    ]
    assert epochs == [1, 2]
    assert said.json["pruning"]["kept_frac"] == kept[1]


def test_whole_blocks_can_be_removed(
    project: Project, wide: dict[str, Any], edgekd_cli: Any
) -> None:
    wide["prune"] = {"keep": 0.6, "measure": "parameters", "blocks": "blocks", "recover_epochs": 1}
    said = ran(project, edgekd_cli, wide, "--until", "prune")
    assert said.code == 0, said.err
    (path, gone), *_ = said.json["pruning"]["removed"][0]["blocks"]
    assert path == "blocks"
    assert len(gone) == 2
    assert said.json["student"]["parameters"] <= 0.6 * said.json["unpruned"]["parameters"]


def test_a_share_of_the_latency_is_measured_on_the_target(
    project: Project, wide: dict[str, Any], edgekd_cli: Any
) -> None:
    wide["teacher"]["load"] = "models.py:Huge"
    wide["prune"] = {"keep": 0.8, "measure": "latency", "target": "x86-cpu-onnx"}
    said = ran(project, edgekd_cli, wide, "--until", "prune")
    assert said.code == 0, said.err
    pruning = said.json["pruning"]
    assert pruning["target"] == "x86-cpu-onnx"
    assert 0 < pruning["kept_frac"] <= 0.8
    assert pruning["trial_count"] >= 2
    assert said.json["student"]["macs"] < said.json["unpruned"]["macs"]


def test_keeping_everything_removes_nothing_and_says_so(
    project: Project, wide: dict[str, Any], edgekd_cli: Any
) -> None:
    wide["prune"] = {"keep": 1.0}
    said = ran(project, edgekd_cli, wide)
    assert said.code == 0, said.err
    assert said.json["pruning"] is None
    assert {row["network"] for row in said.json["rows"]} == {"student"}
    assert "nothing has to be removed" in said.err


@pytest.mark.parametrize(
    ("prune", "code", "message"),
    [
        ({"keep": 0.0}, 2, "in (0, 1]"),
        ({"keep": 1.5}, 2, "in (0, 1]"),
        ({"keep": 0.5, "ignore": ["blocs"]}, 2, "did you mean 'blocks'"),
        ({"keep": 0.5, "method": "unstructured", "ignore": ["blocs"]}, 2, "did you mean 'blocks'"),
        ({"keep": 0.5, "blocks": "block"}, 2, "did you mean 'blocks'"),
        ({"keep": 0.0001, "blocks": "blocks"}, 2, "the last of its list"),
        ({"keep": 0.0001, "scope": "global"}, 2, "the smallest candidate keeps"),
        ({"keep": 0.0001}, 2, "the smallest candidate keeps"),
        ({"keep": 0.5, "ignore": ["stem", "blocks"]}, 2, "stem (asked for)"),
        ({"keep": 0.5, "method": "n-m", "pattern": "1:4"}, 2, "keep = 0.25 for the pattern 1:4"),
        ({"keep": 0.5, "method": "n-m", "pattern": "4"}, 2, "pattern"),
        ({"keep": 0.5, "pattern": "1:2"}, 2, "'prune.pattern' has no effect here"),
        (
            {"keep": 0.5, "method": "unstructured", "round_to": 4},
            2,
            "'prune.round_to' has no effect",
        ),
        ({"keep": 0.5, "method": "unstructured", "measure": "latency"}, 2, "structured"),
        ({"keep": 0.5, "steps": 4, "recover_epochs": 2}, 2, "one epoch of recovery per step"),
        ({"keep": 0.5, "recover_from": "teacher"}, 2, "'prune.recover_from' has no effect"),
        ({"keep": 0.5, "measure": "latency", "target": "x86-cpu-litert"}, 2, "no target"),
        ({"keep": 0.5, "importance": "bn-scale"}, 2, "batch norm"),
    ],
)
def test_wrong_pruning_settings_are_errors_before_any_training(
    project: Project,
    wide: dict[str, Any],
    edgekd_cli: Any,
    prune: dict[str, Any],
    code: int,
    message: str,
) -> None:
    wide["prune"] = prune
    said = ran(project, edgekd_cli, wide)
    assert said.code == code, said.err
    assert message in said.err
    assert_five_parts(said.err)
    assert not list(project.folder.glob("runs/tiny/store/train/*/key.json"))


def test_pruning_by_latency_without_a_device_is_refused(
    project: Project, wide: dict[str, Any], edgekd_cli: Any
) -> None:
    wide["prune"] = {"keep": 0.5, "measure": "latency"}
    wide["targets"] = [{"name": "raspberry-pi-5-litert"}]
    said = ran(project, edgekd_cli, wide)
    assert said.code == 2
    assert "no target of the recipe has one" in said.err
    assert_five_parts(said.err)


def test_the_error_of_an_untraceable_network_names_an_alternative(
    project: Project, wide: dict[str, Any], edgekd_cli: Any
) -> None:
    wide["student"]["load"] = "models.py:Stateful"
    said = ran(project, edgekd_cli, wide)
    assert said.code == 2
    assert "cannot be traced" in said.err
    assert "outside (Outside)" in said.err
    assert 'prune.method = "unstructured"' in said.err


def test_a_derived_student_may_be_as_wide_as_its_teacher_only_if_it_is_pruned(
    project: Project, wide: dict[str, Any], edgekd_cli: Any
) -> None:
    del wide["prune"]
    said = ran(project, edgekd_cli, wide)
    assert said.code == 2
    assert "or a [prune]" in said.err


def test_the_recipe_in_a_run_folder_can_be_run(
    project: Project, wide: dict[str, Any], edgekd_cli: Any
) -> None:
    said = ran(project, edgekd_cli, wide, "--until", "prune")
    (project.folder / "again.toml").write_text(Path(said.json["run"], "recipe.toml").read_text())
    assert edgekd_cli("check", project.folder / "again.toml").code == 0


def test_recovery_from_the_unpruned_student_uses_no_other_teacher(
    project: Project, wide: dict[str, Any], edgekd_cli: Any
) -> None:
    """The teacher is the student before distillation: recovery uses both, or only the student."""
    found = {}
    for who in ("both", "unpruned", "teacher"):
        wide["prune"]["recover_from"] = who
        said = ran(project, edgekd_cli, wide, "--until", "prune")
        assert said.code == 0, said.err
        key = json.loads(
            (Path(said.json["run"]) / "prune" / "recovered" / "history.jsonl")
            .read_text()
            .splitlines()[-1]
        )
        found[who] = key["loss"]
    assert len(set(found.values())) == 3, found
    assert all(torch.isfinite(torch.tensor(list(found.values()))))
