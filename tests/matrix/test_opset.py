"""ONNX files for old runtimes: the operators asked for, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import edgekd
from edgekd.formats import FORMATS
from edgekd.formats.onnx import opset_of
from tests.support.models import TRAPS
from tests.support.project import Project, assert_five_parts, tiny_recipe
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter


@pytest.mark.parametrize("opset", [13, 17, 23])
@pytest.mark.parametrize("name", ["residual", "attention", "signal"])
def test_a_file_has_the_operators_it_was_asked_for(tmp_path: Path, name: str, opset: int) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    trap = TRAPS[name]
    samples = [trap.draw(1, torch.Generator().manual_seed(seed)) for seed in range(8)]
    network = edgekd.load_network(trap.build().eval(), example=samples[0])
    for scheme in ("fp32", "int8"):
        artifact = edgekd.export(
            network, format="onnx", scheme=scheme, calibration=samples, opset=opset, out=tmp_path
        )
        assert opset_of(artifact.path) == artifact.lineage["opset"] == opset
        assert edgekd.verify(artifact, network, samples).outcome is edgekd.Outcome.PASSED


def test_a_target_with_an_old_runtime_gets_its_own_file(project: Project, edgekd_cli: Any) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    document = tiny_recipe()
    (project.folder / "old.toml").write_text(
        'format = "onnx"\nschemes = ["fp32"]\nmachine = "x86_64"\ndevice = "local"\nopset = 13\n'
    )
    document["targets"] = [{"name": "old.toml"}, {"name": "x86-cpu-onnx"}]
    del document["export"]  # In processes of their own.
    said = edgekd_cli("run", project.write(document), "--out", project.folder / "runs", "--json")
    assert said.code == 0, said.err
    paths = {row["target"]: Path(row["artifact"]["path"]) for row in said.json["rows"]}
    assert opset_of(paths["old"]) == 13
    assert opset_of(paths["x86-cpu-onnx"]) > 13
    document["targets"] = [{"name": "x86-cpu-onnx", "opset": 9}]
    refused = edgekd_cli("check", project.write(document))
    assert refused.code == 2
    assert_five_parts(refused.err)


@pytest.mark.parametrize(("format", "opset"), [("onnx", 9), ("onnx", 99), ("openvino", 17)])
def test_no_file_has_such_operators(edgekd_cli: Any, format: str, opset: int) -> None:
    said = edgekd_cli("export", "x.py:net", "--format", format, "--opset", opset, "--out", "out")
    assert said.code == 2
    assert_five_parts(said.err)
