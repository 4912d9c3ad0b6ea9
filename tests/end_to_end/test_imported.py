"""Figures copied from an iPhone's measurement, judged against a budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import edgekd
from edgekd.errors import ConversionError, EdgekdError, RecipeError, UnreachableError
from tests.support.models import TRAPS
from tests.support.project import Project, assert_five_parts, tiny_recipe
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter


def written(path: Path, sha256: str, **times: float) -> str:
    """Write figures of an artifact to a file; returns its URL."""
    model = {"sha256": sha256, "count": 100, "compute_units": "all", "prediction_ms": times,
             "load_ms": 85.0, "operations": {"neural-engine": 4, "cpu": 1}}  # fmt: skip
    document = {"format": "edgekd-figures", "version": 1, "device": "iPhone 15",
                "machine": "arm64", "system": "iOS 18.1", "tool": "Xcode 16.1",
                "models": [model]}  # fmt: skip
    path.write_text(json.dumps(document))
    return f"imported://{path}"


@pytest.fixture
def artifact(tmp_path: Path) -> edgekd.Artifact:
    need_modules("onnx", "onnxscript", "onnxruntime")
    trap = TRAPS["signal"]
    example = trap.draw(1, torch.Generator().manual_seed(0))
    network = edgekd.load_network(trap.build(), example=example)
    return edgekd.export(network, format="onnx", out=tmp_path / "build")


def test_imported_figures_belong_to_one_artifact(
    artifact: edgekd.Artifact, tmp_path: Path, edgekd_cli: Any
) -> None:
    url = written(tmp_path / "phone.json", artifact.sha256, median=1.21, max=1.5)
    measured = edgekd.benchmark(artifact, device=url)
    assert (measured.percentile_ms(0.5).value, measured.percentile_ms(0.9).value) == (1.21, 1.5)
    assert measured.device["processor"] == "iPhone 15"
    assert measured.device["runtime"]["nodes"] == {"neural-engine": 4, "cpu": 1}
    assert measured.init_ms == 85.0
    result = edgekd_cli("benchmark", artifact.path, "--device", url,
                      "--budget", "latency_p90_ms=1.6", "--json")  # fmt: skip
    assert (result.code, result.json[0]["outcome"]) == (0, "passed")
    url = written(tmp_path / "phone.json", artifact.sha256, median=1.21)
    result = edgekd_cli("benchmark", artifact.path, "--device", url,
                      "--budget", "latency_p90_ms=1.6")  # fmt: skip
    assert result.code == 9, "a median bounds no p90"
    other = written(tmp_path / "other.json", "0" * 64, median=1.21)
    with pytest.raises(UnreachableError, match="has no figures for the artifact") as stop:
        edgekd.benchmark(artifact, device=other)
    assert_five_parts(str(stop.value))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": "mlperf"}, "no \"format\": \"edgekd-figures\""),
        ({"version": 2}, "version 2"),
        ({"device": ""}, "no 'device'"),
        ({"models": [{"count": 3}]}, "has no sha256"),
        ({"models": [{"sha256": "0", "count": 3, "prediction_ms": {"mean": 1.0}}]}, "mean"),
        ({"models": [{"sha256": "0", "count": 3, "prediction_ms": {"median": 2.0, "max": 1.0}}]},
         "does not ascend"),
    ],
)  # fmt: skip
def test_an_invalid_file_is_refused(
    artifact: edgekd.Artifact, tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    path = tmp_path / "phone.json"
    url = written(path, artifact.sha256, median=1.0)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RecipeError, match=problem) as stop:
        edgekd.benchmark(artifact, device=url)
    assert_five_parts(str(stop.value))
    with pytest.raises((RecipeError, ConversionError, EdgekdError), match="there is no file"):
        edgekd.benchmark(artifact, device="imported://no/such.json")


def test_a_recipe_takes_figures_of_an_iphone(project: Project, edgekd_cli: Any) -> None:
    need_modules("coremltools")
    document = tiny_recipe()
    figures = project.folder / "iphone.json"
    document["targets"] = [{"name": "iphone-15-coreml", "device": f"imported://{figures}"}]
    project.write(document)
    out = project.folder / "runs"
    written(figures, "0" * 64, median=0.2, max=0.3)
    result = edgekd_cli("run", project.recipe, "--out", out, "--json")
    row = result.json["rows"][0]
    assert row["outcome"] == "unavailable"
    assert row["artifact"]["sha256"] in row["detail"], "what to write the figures for"
    written(figures, row["artifact"]["sha256"], median=0.2, max=0.3)
    limit = "targets.0.budget.latency_p90_ms=1.0"
    result = edgekd_cli("run", project.recipe, "--out", out, "--set", limit, "--json")
    assert result.code == 0, result.err
    row = result.json["rows"][0]
    assert (row["outcome"], row["measurement"]["evidence"]) == ("passed", "device")
    assert row["measurement"]["p90_ms"] == 0.3
    assert row["agreement"]["evidence"] == "reference"
