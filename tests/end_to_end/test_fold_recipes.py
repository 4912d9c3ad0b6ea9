"""A recipe whose files take camera images and give probabilities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.bundles.manifest import read_manifest
from edgekd.formats import FORMATS
from tests.support.project import Project, assert_five_parts, tiny_recipe
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter

DATA = """
import torch
from torch.utils.data import TensorDataset
import edgekd


def images(count=120):
    generator = torch.Generator().manual_seed(7)

    def split(n):
        labels = torch.randint(0, 3, (n,), generator=generator)
        raw = torch.randint(0, 160, (n, 3, 12, 12), generator=generator).float()
        raw[torch.arange(n), labels] += 80
        return TensorDataset((raw / 255 - 0.5) / 0.25, labels)

    return edgekd.Data(train=split(count), validation=split(40), test=split(60))
"""

MODELS = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.ReLU())
        self.head = nn.Linear(24, 3)

    def forward(self, photo):
        return self.head(self.features(photo).mean((2, 3)))


def net():
    return Net()
"""


def recipe(dtype: str) -> dict[str, Any]:
    document = tiny_recipe()
    document["version"] = "1.0.0"
    document["data"] = {"load": "data.py:images"}
    document["teacher"]["load"] = document["student"]["load"] = "models.py:net"
    document["quantize"]["schemes"] = ["fp32", "int8"]
    document["quantize"]["calibration"] = "calibration.toml"
    raw = {"dtype": dtype, "scale": 1 / 255, "mean": [0.5], "std": [0.25]}
    document["export"] |= {"inputs": {"photo": raw}, "outputs": "probabilities"}
    document["targets"] = [{"name": f"x86-cpu-{name}"} for name in ("onnx", "openvino", "litert")]
    document["targets"].append({"name": "iphone-15-coreml", "required": False})
    document["bundle"] = {"kinds": ["folder"]}
    return document


@pytest.fixture
def images(project: Project) -> Project:
    for module in FORMATS.values():
        need_modules(*module.PACKAGES)
    (project.folder / "data.py").write_text(DATA)
    (project.folder / "models.py").write_text(MODELS)
    (project.folder / "calibration.toml").write_text(
        'source = "train"\ncount = 64\nselection = "random"\nlicence = "none"\n'
    )
    return project


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_files_take_camera_images_and_give_probabilities(
    images: Project, edgekd_cli: Any, dtype: str
) -> None:
    out = images.folder / "runs"
    said = edgekd_cli("run", images.write(recipe(dtype)), "--out", out, "--json")
    assert said.code == 0, said.err
    rows = {(row["target"], row["scheme"]): row for row in said.json["rows"]}
    for (target, scheme), row in rows.items():
        if target == "iphone-15-coreml" and dtype == "uint8":
            assert row["outcome"] == "refused"
            assert 'dtype = "float32"' in row["detail"]
            continue
        assert row["outcome"] == "passed", row
        assert row["agreement"]["sqnr_db"] > (90 if scheme == "fp32" else 25)
        if "litert" in target:
            assert row["artifact"]["transposes"] == 0
    bundle = Path(said.json["bundles"]["folder"])
    for model in read_manifest(bundle).models:
        tensor = model.inputs[0]
        assert (tensor.name, tensor.dtype, tensor.shape) == ("photo", dtype, [1, 12, 12, 3])
        assert tensor.layout == "batch height width channels"
        assert model.outputs[0].meaning == "probabilities"
        path = bundle / model.golden.outputs[model.outputs[0].name].path
        np.testing.assert_allclose(np.fromfile(path, "<f4").reshape(8, 3).sum(1), 1, atol=0.02)


def test_preprocessing_that_is_not_the_datas_is_reported_before_any_training(
    images: Project, edgekd_cli: Any
) -> None:
    document = recipe("uint8")
    document["export"]["inputs"]["photo"]["std"] = [0.9]
    said = edgekd_cli("run", images.write(document), "--out", images.folder / "runs")
    assert said.code == 2
    assert_five_parts(said.err)
    assert "0 to 255" in said.err
    assert not list(images.folder.glob("runs/*/*/train"))
    document["export"]["inputs"] = {"foto": {}}
    said = edgekd_cli("run", images.write(document), "--out", images.folder / "runs", "--json")
    assert said.code == 2
    assert json.loads(said.out)["faults"][0]["at"] == "export.inputs.foto"


def test_litert_takes_images_channels_last_and_its_bundle_says_so(
    images: Project, edgekd_cli: Any
) -> None:
    document = recipe("float32")
    del document["export"]["inputs"], document["export"]["outputs"]
    document["quantize"]["schemes"] = ["fp32", "int8"]
    document["targets"] = [
        {"name": "x86-cpu-litert"},
        {"name": "x86-cpu-openvino", "channels_last": True},
        {"name": "x86-cpu-onnx"},
    ]
    out = images.folder / "runs"
    said = edgekd_cli("run", images.write(document), "--out", out, "--json")
    assert said.code == 0, said.err
    place = next((out / "tiny").glob("*/bundle/tiny-*"))
    models = {model.target: model for model in read_manifest(place).models}
    last, first = [None, 12, 12, 3], [None, 3, 12, 12]
    wanted = {"x86-cpu-litert": last, "x86-cpu-openvino": last, "x86-cpu-onnx": first}
    for name, shape in wanted.items():
        entry = models[name].inputs[0]
        assert entry.shape[1:] == shape[1:]
        axes = "height width channels" if shape is last else "channels height width"
        assert entry.layout == f"batch {axes}"
    golden = {name: models[name].golden.inputs["photo"] for name in wanted}
    arrays = {
        name: np.fromfile(place / path, "<f4").reshape(-1, *wanted[name][1:])
        for name, path in golden.items()
    }
    turned = np.moveaxis(arrays["x86-cpu-onnx"], 1, -1)
    assert np.array_equal(arrays["x86-cpu-litert"], turned)
    assert golden["x86-cpu-litert"] == golden["x86-cpu-openvino"]
    checked = edgekd_cli("bundle", "--check", place, "--json")
    assert checked.code == 0, checked.err
