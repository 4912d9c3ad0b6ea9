"""How much of a file is quantized, as the file itself tells."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import edgekd
from edgekd.artifacts.quantized_fraction import little_quantized
from edgekd.cli.result_text import artifact_lines
from edgekd.errors import ConversionError
from edgekd.formats import FORMATS
from edgekd.formats.inspection import read_weights
from tests.support.models import TRAPS
from tests.support.project import assert_five_parts
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter

READ = ("onnx", "openvino", "litert", "coreml")


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(16, 48, batch_first=True), nn.Linear(48, 5)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(signal)[0][:, -1])


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 48, 3, 2, 1))
        self.head = nn.Linear(48, 12)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(image).relu().mean((2, 3)))


def written(
    folder: Path, module: nn.Module, shape: tuple[int, ...], format: str, scheme: str
) -> edgekd.Artifact:
    torch.manual_seed(0)
    network = edgekd.load_network(module.eval(), example=torch.zeros(1, *shape))
    (name,) = network.signature.input_names
    generator = torch.Generator().manual_seed(1)
    samples = [{name: torch.randn(1, *shape, generator=generator)} for _ in range(16)]
    return edgekd.export(network, format=format, scheme=scheme, calibration=samples, out=folder)


def weights(module: nn.Module) -> int:
    """The values of all parameters that are no vectors, however many axes of one they have."""
    sizes = [(each.numel(), max(each.shape)) for each in module.parameters()]
    return sum(count for count, longest in sizes if count > longest)


@pytest.mark.parametrize("format", READ)
@pytest.mark.parametrize("name", ["residual", "two-inputs"])
def test_a_float_file_holds_the_weights_of_its_network(
    name: str, format: str, tmp_path: Path
) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    trap = TRAPS[name]
    module = trap.build()
    network = edgekd.load_network(module, example=trap.draw(1, torch.Generator().manual_seed(1)))
    artifact = edgekd.export(network, format=format, scheme="fp32", out=tmp_path)
    found = read_weights(artifact.path, format)
    assert found is not None
    assert sum(found.values.values()) == weights(module)
    assert found.frac(16) == 0
    assert found.in_float
    assert "quantized_weights_frac" not in artifact.lineage


@pytest.mark.parametrize("format", READ)
def test_a_quantized_file_says_how_much_of_it_is(format: str, tmp_path: Path) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    artifact = written(tmp_path, Image(), (3, 16, 16), format, "int8")
    # Core ML leaves what has fewer than 2048 values in float, as coremltools does by itself.
    assert artifact.lineage["quantized_weights_frac"] > 0.9
    assert little_quantized(artifact.lineage, "int8") is None
    assert edgekd.load_artifact(artifact.path.parent) == artifact


@pytest.mark.parametrize(
    ("module", "shape", "scheme", "stays"),
    [
        (Recurrent, (12, 16), "int8", "LSTM stays in float"),
        (Image, (3, 16, 16), "int8-dynamic", "Conv stays in float"),
        (Image, (3, 16, 16), "int4-weights", "Conv stays in float"),
    ],
)
def test_what_stays_in_float_is_told(
    module: type[nn.Module], shape: tuple[int, ...], scheme: str, stays: str, tmp_path: Path
) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    artifact = written(tmp_path, module(), shape, "onnx", scheme)
    share = artifact.lineage["quantized_weights_frac"]
    assert 0 < share < 0.1
    told = (
        f"{scheme}: {100 * share:.2g} % of the weights are in {scheme.partition('-')[0]}; {stays}"
    )
    assert little_quantized(artifact.lineage, scheme) == told
    assert f"  {told}" in list(artifact_lines(artifact))


@pytest.mark.parametrize("scheme", ["int8", "int4-weights", "palettized"])
def test_a_core_ml_package_of_small_tensors_is_not_called_quantized(
    scheme: str, tmp_path: Path
) -> None:
    need_modules(*FORMATS["coreml"].PACKAGES)
    with pytest.raises(ConversionError, match="Nothing in the network was quantized") as caught:
        written(tmp_path, nn.Linear(8, 6), (8,), "coreml", scheme)
    assert_five_parts(str(caught.value))
