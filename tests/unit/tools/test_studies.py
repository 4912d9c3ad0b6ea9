"""The studies of distillation and pruning: they run, and their statistics match SciPy's."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.skips import need_modules

TOOLS = Path(__file__).parents[3] / "tools"


@pytest.fixture(autouse=True)
def tools_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    need_modules("mnist1d", "scipy", "sklearn", "torch_pruning")
    monkeypatch.syspath_prepend(str(TOOLS))


def run_quick(name: str, folder: Path) -> tuple[Any, str]:
    """The document and the printed table of a quick study."""
    out = folder / "study.json"
    command = [sys.executable, TOOLS / name, "--quick", "--json", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done.stdout


def test_paired_statistics_are_those_of_scipy() -> None:
    from scipy import stats

    ours, theirs = [0.91, 0.93, 0.90, 0.95, 0.92], [0.90, 0.91, 0.905, 0.92, 0.91]
    difference = import_module("_study").paired(ours, theirs)
    expected = stats.ttest_rel(ours, theirs)
    interval = expected.confidence_interval(0.95)
    assert difference["p"] == pytest.approx(expected.pvalue, rel=1e-12)
    assert difference["low"] == pytest.approx(interval.low, rel=1e-12)
    assert difference["high"] == pytest.approx(interval.high, rel=1e-12)
    assert difference["won"] == 4


def test_equal_figures_have_no_difference() -> None:
    difference = import_module("_study").paired([0.9, 0.8], [0.9, 0.8])
    assert difference == {"mean": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "won": 0}


def test_each_cell_is_reported_with_the_rate_that_is_best_on_validation() -> None:
    study = import_module("_study")
    best = {("a",): 0.1, ("b",): 0.25}

    def run_jobs(name: str, jobs: list[Any]) -> list[tuple[float, float]]:
        assert all((job.seed >= 100) == (name == "tuning") for job in jobs)
        return [(-abs(job.rate - best[job.cell]), job.rate + job.seed) for job in jobs]

    tuned = study.tune(run_jobs, dict.fromkeys(best, (0.1, 0.2, 0.4)), 2, (100, 101))
    assert [(result.rate, result.at_edge) for result in tuned.values()] == [
        (0.1, True),
        (0.2, False),
    ]
    assert tuned["b",].test == [0.2, 1.2]
    assert study.best_rate({0.1: 0.5, 0.2: 0.5}) == 0.1


def test_labels_are_drawn_evenly_and_every_sample_once() -> None:
    labels = torch.randint(0, 10, (500,), generator=torch.Generator().manual_seed(0))
    labelled, others = import_module("_students").draw_labelled(labels, 50, seed=3)
    assert labels[labelled].bincount().tolist() == [5] * 10
    assert torch.cat([labelled, others]).sort().values.tolist() == list(range(500))


def test_a_quick_distillation_study_reports_every_arm(tmp_path: Path) -> None:
    known = import_module("distillation_study").PROBLEMS
    document, printed = run_quick("distillation_study.py", tmp_path)
    assert list(document["problems"]) == list(known)
    for key, problem in document["problems"].items():
        assert list(problem["arms"]) == list(known[key].arms)
        assert problem["title"] in printed
        for row in problem["arms"].values():
            figures = [*row["test_accuracy"], *row["validation_accuracy"].values(), row["mean"]]
            assert all(0 <= figure <= 1 for figure in figures)
            assert len(row["test_accuracy"]) == 2


def test_a_quick_pruning_study_reports_every_arm(tmp_path: Path) -> None:
    study = import_module("pruning_study")
    document, printed = run_quick("pruning_study.py", tmp_path)
    cells = [(row["keep"], row["labels"], row["arm"]) for row in document["rows"]]
    assert cells == [(k, n, arm) for k in study.KEPT for n in study.LABELS for arm in study.ARMS]
    for keep, pruned in document["pruned"].items():
        assert pruned["parameters"] <= float(keep) * document["teacher_parameters"]
    assert "where an arm loses" in printed
