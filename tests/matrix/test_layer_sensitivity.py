"""What quantization did to each layer: in grids made by hand, and in files of every format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import edgekd
from edgekd.artifacts.scheme import SCHEMES
from edgekd.errors import RecipeError
from edgekd.formats import FORMATS
from edgekd.verification.layer_sensitivity import grid_step, layer_sensitivity
from tests.support.models import TRAPS
from tests.support.project import Project, assert_five_parts, tiny_recipe
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter

INT8 = [name for name, module in FORMATS.items() if "int8" in module.SCHEMES]
DICE = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_grid_is_found_and_float_is_none(bits: int) -> None:
    values = torch.randn(500, generator=DICE)
    scale = 0.0137
    codes = (values / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    step = grid_step(codes * scale)
    assert step == pytest.approx(scale, rel=1e-3)
    assert grid_step(values) is None


def exported(name: str, format: str, scheme: str, out: Path) -> tuple[Any, ...]:
    trap = TRAPS[name]
    generator = torch.Generator().manual_seed(1)
    samples = [trap.draw(1, generator) for _ in range(32)]
    network = edgekd.load_network(trap.build(), example=samples[0])
    artifact = edgekd.export(network, format=format, scheme=scheme, calibration=samples, out=out)
    return artifact, network, samples


@pytest.mark.parametrize("format", INT8)
def test_the_output_has_the_noise_that_verify_finds(tmp_path: Path, format: str) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    artifact, network, samples = exported("residual", format, "int8", tmp_path)
    layers = edgekd.layer_sensitivity(artifact, network, samples[:8])
    last = layers[-1]
    assert last.module == "(output output)"
    assert last.sqnr_db == pytest.approx(
        edgekd.verify(artifact, network, samples[:8]).sqnr_db, abs=0.5
    )
    assert [each.module for each in layers][:2] == ["stem", "body.0"]
    for each in layers:
        assert each.low <= each.high
        if each.tensor is not None and each.saturated_frac is not None:
            assert each.saturated_frac <= 0.05, each
    quantized = SCHEMES["int8"].activation_bits == 8 and format in ("onnx", "litert", "openvino")
    assert any(each.step is not None for each in layers) == quantized


def test_in_float32_nothing_is_cut_off_and_there_is_no_grid(tmp_path: Path) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    artifact, network, samples = exported("residual", "onnx", "fp32", tmp_path)
    for each in layer_sensitivity(artifact, network, samples[:2]):
        assert each.step is None
        assert each.saturated_frac is None
        assert each.sqnr_db is None or each.sqnr_db > 90


class Uneven(nn.Module):
    """A layer one of whose channels is a hundred times the others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 2, 1)
        with torch.no_grad():
            self.first.weight[5] *= 100

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(image))


def test_outlier_channels_and_what_calibration_cut_off_are_found(tmp_path: Path) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    torch.manual_seed(0)
    images = torch.randn(24, 1, 3, 8, 8)
    samples = [{"image": each} for each in images]
    network = edgekd.load_network(Uneven().eval(), example=samples[0])
    quiet = [{"image": 0.2 * each} for each in images]
    artifact = edgekd.export(network, format="onnx", scheme="int8", calibration=quiet, out=tmp_path)
    first, *_ = layer_sensitivity(artifact, network, samples[:4])
    assert list(first.outliers) == [5]
    assert first.outliers[5] > 50
    assert first.saturated_frac is not None
    assert first.saturated_frac > 0.01
    assert first.file_high is not None
    assert first.file_high < 0.5 * first.high
    inside, *_ = layer_sensitivity(artifact, network, quiet[:4])
    assert inside.saturated_frac is not None
    assert inside.saturated_frac < 0.1 * first.saturated_frac


def test_without_samples_it_is_refused(tmp_path: Path) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    artifact, network, _ = exported("residual", "onnx", "fp32", tmp_path)
    with pytest.raises(RecipeError) as caught:
        layer_sensitivity(artifact, network, [])
    assert_five_parts(str(caught.value))


def test_a_run_keeps_it_as_data_and_shows_it(project: Project, edgekd_cli: Any) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    document = tiny_recipe()
    del document["teacher"], document["distill"]
    document["quantize"] = {"schemes": ["fp32", "int8"], "search": "first", "sensitivity": True}
    document["accept"] = {"max_drop": 1.0, "min_agreement": 0.0}
    said = edgekd_cli("run", project.write(document), "--out", project.folder / "runs", "--json")
    assert said.code == 0, said.err
    run = Path(said.json["run"])
    (path,) = run.glob("sensitivity/*/sensitivity.json")
    found = json.loads(path.read_text())
    assert path.parent.name == "x86-cpu-onnx-int8"
    assert found["artifact"] == said.json["rows"][1]["artifact"]["sha256"]
    assert found["layers"][0]["module"] == "0"
    assert "Quantization error per layer" in (run / "report.html").read_text()


def test_the_command_line_tells_it(project: Project, edgekd_cli: Any) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    models = f"{project.folder}/models.py:teacher"
    samples = project.folder / "samples.safetensors"
    save_file({"input": torch.randn(40, 8)}, samples)
    words = ("--format", "onnx", "--scheme", "int8", "--example", "1x8", "--calibration", samples)
    said = edgekd_cli("export", models, *words, "--out", project.folder / "out")
    assert said.code == 0, said.err
    asked = (project.folder / "out" / "onnx-int8", "--against", models, "--samples", samples)
    told = edgekd_cli("sensitivity", *asked)
    assert told.code == 0, told.err
    assert "(output output)" in told.out
    document = edgekd_cli("sensitivity", *asked, "--json").json
    assert {"module", "sqnr_db", "saturated_frac", "outliers"} <= set(document[0])
