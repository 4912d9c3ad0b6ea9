"""One student trained by several processes, over gloo on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tests.support.project import Project, tiny_recipe
from tests.support.skips import need_modules

SCRIPT = """
    import json, sys, torch
    sys.path.insert(0, {tests!r})
    from torch import nn
    from torch.utils.data import TensorDataset
    import edgekd
    from edgekd.data import Data
    from edgekd.training.distributed import join, leave, world
    from edgekd.network.network import as_network
    from edgekd.recipe.training import Distill
    from edgekd.training.options import TrainingOptions

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)

    def net(width, seed):
        torch.manual_seed(seed)
        layers = [nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Linear(width, 3)]
        return as_network(nn.Sequential(*layers), torch.zeros(1, 8))

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(45, 8, generator=generator)
    labels = torch.randint(0, 3, (45,), generator=generator)
    labelled = TensorDataset(x[:13], labels[:13])
    data = Data(labelled, labelled, labelled, unlabeled=TensorDataset(x[13:]))
    # Plain gradient descent: any difference of gradients changes the weights.
    config = Distill.model_validate(dict(
        epochs=2, batch_size=9, clip_norm=1e9, losses={losses}, cache_format="fp32",
        optimizer=dict(name="sgd", learning_rate=0.05, momentum=0.0, weight_decay=0.0),
    ))
    history = []
    options = TrainingOptions(history=history)
    taught = edgekd.distill(net(12, 0), net(5, 1), data, config, options=options)
    if world()[0] == 0:
        weights = torch.cat([value.flatten() for value in taught.module.state_dict().values()])
        print("FOUND", json.dumps([weights.tolist(), [record["loss"] for record in history]]))
    leave()
"""


def taught(processes: int, losses: list[dict[str, Any]], folder: Path) -> tuple[Any, Any]:
    """The weights and the losses after training in `count` processes."""
    path = folder / f"script-{processes}.py"
    tests = str(Path(__file__).parents[2])
    path.write_text(textwrap.dedent(SCRIPT).format(tests=tests, losses=losses))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    argv = [*launcher, "--nproc-per-node", str(processes)] if processes > 1 else [sys.executable]
    done = subprocess.run(
        [*argv, str(path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND"))
    weights, history = json.loads(line.removeprefix("FOUND"))
    return weights, history


HIDDEN = {"student_layer": "2", "teacher_layer": "2", "weight": 0.3}


@pytest.mark.parametrize(
    "losses",
    [
        [{"method": "hard"}, {"method": "soft_target", "temperature": 2.0}],
        [{"method": "dist"}, {"method": "hint", **HIDDEN}],
        [
            {"method": "relational_distance", **HIDDEN},
            {"method": "similarity_preserving", **HIDDEN},
            {"method": "probabilistic_transfer", **HIDDEN},
            {"method": "relational_angle", **HIDDEN},
        ],
    ],
    ids=["samples", "batch", "relations"],
)
def test_one_and_two_processes_come_to_the_same_weights(
    losses: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Losses that relate samples, and rare labels that some processes lack in some batches."""
    (one, alone), (two, together) = (taught(count, losses, tmp_path) for count in (1, 2))
    assert two == pytest.approx(one, abs=1e-9)
    assert together == pytest.approx(alone, rel=1e-7)


@pytest.mark.converter
def test_a_recipe_trains_in_two_processes(project: Project, edgekd_cli: Any) -> None:
    document = tiny_recipe()
    document["distill"]["devices"] = 2
    project.write(document)
    out = project.folder / "runs"
    result = edgekd_cli("run", project.recipe, "--out", out, "--json")
    assert result.code in (0, 9), result.err
    assert "distill 3/3" in result.err
    folder = Path(result.json["run"])
    rows = (folder / "distill" / "history.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [1, 2, 3]
    assert "distill" not in result.json["reused"]
    again = edgekd_cli("run", project.recipe, "--out", out, "--json", "--until", "distill")
    assert "distill" in again.json["reused"]
    assert "distill 1/3" not in again.err


def test_two_processes_fine_tune_a_pruned_network(project: Project, edgekd_cli: Any) -> None:
    need_modules("torch_pruning")
    document = tiny_recipe()
    document["student"]["load"] = "models.py:teacher"
    document["distill"]["devices"] = 2
    document["prune"] = {"keep": 0.5, "recover_epochs": 2}
    project.write(document)
    out = project.folder / "runs"
    result = edgekd_cli("run", project.recipe, "--out", out, "--json", "--until", "prune")
    assert result.code == 0, result.err
    assert "prune 2/2" in result.err
    folder = Path(result.json["run"])
    rows = (folder / "prune" / "recovered" / "history.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [1, 2]
    assert result.json["student"]["macs"] <= 0.5 * result.json["unpruned"]["macs"]
    other = edgekd_cli(
        "run", project.recipe, "--out", out, "--json", "--until", "prune",
        "--set", "prune.recover_epochs=3",
    )  # fmt: skip
    assert other.code == 0, other.err
    assert {"train", "distill", "prune/cut"} <= set(other.json["reused"])
    assert "prune/recovered" not in other.json["reused"]


def test_an_error_in_one_process_is_reported_unchanged(project: Project, edgekd_cli: Any) -> None:
    document = tiny_recipe()
    document["distill"]["devices"] = 2
    document["distill"]["optimizer"] = {"name": "sgd", "learning_rate": 1e30}
    project.recipe.write_text(tomli_w.dumps(document))
    result = edgekd_cli("run", project.recipe, "--out", project.folder / "runs")
    assert result.code == 2
    assert "The training loss is not finite." in result.err


def test_more_machines_need_torchrun(project: Project, edgekd_cli: Any) -> None:
    result = edgekd_cli("run", project.recipe, "--set", "distill.nodes=2")
    assert result.code == 2
    assert "torchrun --nnodes 2" in result.err
