"""Where a file first computes something else: in files with one wrong layer, and in right ones."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import edgekd
from edgekd.formats import FORMATS
from edgekd.verification.divergence import localize
from tests.support import model_zoo as zoo
from tests.support.models import TRAPS
from tests.support.project import Project
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter

ALL = {**TRAPS, **zoo.CASES}
WRONG = {
    "convolution-grouped": ("features.4.weight", ("features.4", "features.5")),
    "recurrent": ("cells.weight_hh_l0", ("cells",)),
}
"""The weight that is wrong in the file, and the layers that may be named: an activation where its
convolution was joined with it."""


def made(name: str) -> tuple[Any, dict[str, torch.Tensor]]:
    trap = ALL[name]
    example = trap.draw(1, torch.Generator().manual_seed(0))
    return trap.build().eval(), example


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", WRONG)
def test_the_layer_that_is_wrong_is_named(tmp_path: Path, name: str, format: str) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    module, example = made(name)
    network = edgekd.load_network(module, example=example)
    right = edgekd.export(network, format=format, out=tmp_path / "right")
    assert not [layer for layer in localize(right, network, example) if layer.first]
    other = copy.deepcopy(module)
    weight, expected = WRONG[name]
    with torch.no_grad():
        other.get_parameter(weight).mul_(1.3)
    wrong = edgekd.export(
        edgekd.load_network(other, example=example), format=format, out=tmp_path / "wrong"
    )
    layers = localize(wrong, network, example)
    assert [layer.module for layer in layers if layer.first] in [[each] for each in expected]


@pytest.mark.parametrize("format", [name for name in FORMATS if "int8" in FORMATS[name].SCHEMES])
def test_quantization_noise_is_no_divergence(tmp_path: Path, format: str) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    module, example = made("convolution-grouped")
    network = edgekd.load_network(module, example=example)
    draw = ALL["convolution-grouped"].draw
    samples = [draw(1, torch.Generator().manual_seed(seed)) for seed in range(16)]
    artifact = edgekd.export(
        network, format=format, scheme="int8", calibration=samples, out=tmp_path
    )
    layers = localize(artifact, network, samples[0])
    assert not [layer for layer in layers if layer.first]
    assert sum(layer.sqnr_db is not None for layer in layers) >= len(layers) // 2


def test_the_command_line_says_which_layer(project: Project, edgekd_cli: Any) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    models = f"{project.folder}/models.py:teacher"
    out = project.folder / "out"
    said = edgekd_cli("export", models, "--format", "onnx", "--example", "1x8", "--out", out)
    assert said.code == 0, said.err
    samples = project.folder / "samples.safetensors"
    save_file({"input": torch.randn(20, 8)}, samples)
    words = ("verify", out / "onnx-fp32", "--against", models, "--samples", samples, "--layers")
    # Another draw of random weights: nothing of it agrees.
    told = edgekd_cli(*words)
    assert told.code == 7
    assert "first to diverge" in told.out
    found = edgekd_cli(*words, "--json").json
    assert [layer["module"] for layer in found["layers"]][:1] == ["0"]
    assert len(found["worst"]) == 8


def test_a_run_keeps_the_worst_samples(project: Project, edgekd_cli: Any) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    said = edgekd_cli("run", project.recipe, "--out", project.folder / "runs", "--json")
    assert said.code == 0, said.err
    folder = Path(said.json["run"]) / "verify" / "x86-cpu-onnx-fp32"
    with np.load(folder / "worst.npz") as file:
        ids = file["sample"].tolist()
        assert ids == said.json["rows"][0]["agreement"]["worst"]
        assert file["input.input"].shape == (len(ids), 8)
        errors = np.abs(file["expected.output"] - file["found.output"]).sum(1)
        assert errors[0] > 0
