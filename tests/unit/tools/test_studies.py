"""The study of what a teacher is worth: it runs, and its statistics are the textbook's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.support.skips import need_modules

TOOLS = Path(__file__).parents[3] / "tools"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    need_modules("mnist1d", "scipy", "sklearn", "torch_pruning")
    monkeypatch.syspath_prepend(str(TOOLS))
    import distillation_study

    return distillation_study


def test_paired_statistics_are_those_of_scipy(study: ModuleType) -> None:
    from scipy import stats

    ours, theirs = [0.91, 0.93, 0.90, 0.95, 0.92], [0.90, 0.91, 0.905, 0.92, 0.91]
    found, expected = study.paired(ours, theirs), stats.ttest_rel(ours, theirs)
    interval = expected.confidence_interval(0.95)
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-12)
    assert found["low"] == pytest.approx(interval.low, rel=1e-12)
    assert found["high"] == pytest.approx(interval.high, rel=1e-12)
    assert found["won"] == 4


def test_equal_figures_are_no_difference(study: ModuleType) -> None:
    found = study.paired([0.9, 0.8], [0.9, 0.8])
    assert found == {"mean": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "won": 0}


def test_labels_are_dealt_evenly_and_every_sample_once(study: ModuleType) -> None:
    labels = torch.randint(0, 10, (500,), generator=torch.Generator().manual_seed(0))
    own, others = study.dealt(labels, 50, seed=3)
    assert labels[own].bincount().tolist() == [5] * 10
    assert torch.cat([own, others]).sort().values.tolist() == list(range(500))


def test_quick_study_reports_every_arm(study: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "study.json"
    command = [sys.executable, TOOLS / "distillation_study.py", "--quick", "--json", out]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(out.read_text())["problems"]
    assert list(found) == list(study.PROBLEMS)
    for key, problem in found.items():
        assert list(problem["arms"]) == list(study.PROBLEMS[key].arms)
        assert problem["title"] in ran.stdout
        for row in problem["arms"].values():
            figures = [*row["test_accuracy"], *row["validation_accuracy"].values(), row["mean"]]
            assert all(0 <= figure <= 1 for figure in figures)
            assert len(row["test_accuracy"]) == 2


def test_quick_pruning_study_reports_every_arm(study: ModuleType, tmp_path: Path) -> None:  # noqa: ARG001
    import pruning_study

    out = tmp_path / "study.json"
    command = [sys.executable, TOOLS / "pruning_study.py", "--quick", "--json", out]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(out.read_text())
    cells = [(row["keep"], row["labels"], row["arm"]) for row in found["rows"]]
    kept, labels = pruning_study.KEPT, pruning_study.LABELS
    assert cells == [(k, n, arm) for k in kept for n in labels for arm in pruning_study.ARMS]
    for keep, known in found["pruned"].items():
        assert known["parameters"] <= float(keep) * found["teacher_parameters"]
    assert "where an arm loses" in ran.stdout
