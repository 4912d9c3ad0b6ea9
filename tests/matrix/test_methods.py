"""Every method of every format's quantizer, on one network: it runs, and is as good as it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgekd
from edgekd.artifacts.scheme import SCHEMES
from edgekd.conversion.export import convert
from edgekd.devices.on_device.agent import device_facts
from edgekd.errors import ConversionError, DisagreementError, RecipeError
from edgekd.formats import FORMATS
from edgekd.formats.openvino import quantize as openvino_quantize
from edgekd.formats.options import RENAMED_METHODS, ExportOptions
from edgekd.pipeline.candidates.mixed_precision import layers_of
from tests.support.models import TRAPS
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter

# What has no calibration and one method is in test_matrix.
CASES = [
    (format, scheme, method)
    for format, module in FORMATS.items()
    for scheme, methods in module.METHODS.items()
    for method in methods
    if len(methods) > 1 or scheme in ("int4-weights", "int8-int16")
]


WITHOUT_KERNELS = [
    ("litert", "int8-int16", "min-max"),
    ("litert", "int8-int16", "linear"),
    ("litert", "int4-weights", "octav"),
]
"""What XNNPACK leaves to LiteRT's slower kernels: such a file fell back, and never passes."""


def wide() -> edgekd.Network:
    """Matrices that fill groups of 32 weights."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return edgekd.load_network(module.eval(), example=torch.zeros(1, 64))


def samples(network: edgekd.Network, count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    ((name, tensor),) = network.example.items()
    return [{name: torch.randn(tensor.shape, generator=generator)} for _ in range(count)]


@pytest.mark.parametrize(("format", "scheme", "method"), CASES)
def test_a_method_gives_a_file_that_computes_the_network(
    format: str, scheme: str, method: str, tmp_path: Path
) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    network = wide()
    artifact = edgekd.export(
        network,
        format=format,
        scheme=scheme,
        method=method,
        calibration=samples(network, 64, 1),
        out=tmp_path,
    )
    assert artifact.lineage["quantizer"]["method"] == method
    if (format, scheme, method) in WITHOUT_KERNELS:
        with pytest.raises(
            DisagreementError, match="XNNPACK, which has FULLY_CONNECTED, took none"
        ):
            edgekd.verify(artifact, network, samples(network, 64, 1))
        return
    found = edgekd.verify(artifact, network, samples(network, 64, 1), min_agreement=0.0)
    assert found.sqnr_db < 75, "it is quantized"
    if method == "transformer-smooth":
        # OpenVINO 2026.4 computes it wrongly on one thread: why "transformer" tries both.
        assert found.outcome is edgekd.Outcome.DISAGREES
        return
    # Averages of the samples' ranges clip the largest ones.
    averaged = 6.0 if "moving-average" in method else 0.0
    assert found.sqnr_db >= SCHEMES[scheme].sqnr_floor_db - averaged


@pytest.mark.parametrize("method", ["activations", "activations-linear"])
def test_core_ml_rounds_an_output_on_its_way_to_an_operator_that_reads_it(
    method: str, tmp_path: Path
) -> None:
    need_modules("coremltools")
    trap = TRAPS["two-inputs"]
    generator = torch.Generator().manual_seed(1)
    network = edgekd.load_network(trap.build(), example=trap.draw(1, generator))
    given = [trap.draw(1, generator) for _ in range(32)]
    artifact = convert(
        network, "coreml", given, tmp_path, ExportOptions(scheme="int8", method=method)
    )
    found = edgekd.verify(artifact, network, given, min_agreement=0.0)
    assert 30 < found.sqnr_db < 60


def test_smooth_quant_is_judged_on_samples_that_it_has_not_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    need_modules("openvino", "nncf")
    seen: list[list[float]] = []
    judged: list[list[float]] = []

    def firsts(arrays: list[dict[str, np.ndarray]]) -> list[float]:
        return [float(next(iter(each.values())).flat[0]) for each in arrays]

    def once(
        model: object, arrays: list[dict[str, np.ndarray]], method: str, options: ExportOptions
    ) -> object:
        seen.append(firsts(arrays))
        return made(model, arrays, method, options)

    def noise(ov: object, model: object, candidate: object, arrays: list[Any]) -> float:
        judged.append(firsts(arrays))
        return measured(ov, model, candidate, arrays)

    made, measured = openvino_quantize._quantized, openvino_quantize._noise
    monkeypatch.setattr(openvino_quantize, "_quantized", once)
    monkeypatch.setattr(openvino_quantize, "_noise", noise)
    network = wide()
    given = samples(network, 16, 1)
    convert(
        network, "openvino", given, tmp_path, ExportOptions(scheme="int8", method="transformer")
    )
    everything = firsts([{name: t.numpy() for name, t in each.items()} for each in given])
    smooth, without, last = seen
    assert last == everything, "the file that is kept is made of all samples"
    for used, held in zip((smooth, without), judged, strict=True):
        assert used + held == everything
        assert held


@pytest.mark.parametrize("method", ["symmetric", "transformer-symmetric"])
def test_symmetric_activations_have_no_zero_point(method: str, tmp_path: Path) -> None:
    need_modules("openvino", "nncf")
    import openvino as ov

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)).eval()
    network = edgekd.load_network(module, example=torch.zeros(1, 64))
    # Mostly positive, so that another range than a symmetric one would fit better.
    given = [{name: x.abs() + 0.1 * x for name, x in one.items()} for one in samples(wide(), 32, 1)]
    ranges = {}
    for each in (method, "no-bias-correction"):
        options = ExportOptions(scheme="int8", method=each, reduce_range=False)
        artifact = convert(network, "openvino", given, tmp_path / each, options)
        steps = [
            node
            for node in ov.Core().read_model(artifact.path).get_ops()
            if node.get_type_name() == "FakeQuantize"
        ]
        ranges[each] = [
            [float(node.input_value(place).get_node().data.flat[0]) for place in (1, 2)]
            for node in steps
        ]
    assert all(low == pytest.approx(-high, rel=0.02) or low == 0 for low, high in ranges[method])
    others = ranges["no-bias-correction"]
    assert any(low != pytest.approx(-high, rel=0.02) and low != 0 for low, high in others)


@pytest.mark.parametrize("format", [name for name in FORMATS if FORMATS[name].METHODS])
def test_excluded_layers_stay_in_float_and_raise_the_sqnr(format: str, tmp_path: Path) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    trap = TRAPS["residual"]
    generator = torch.Generator().manual_seed(1)
    network = edgekd.load_network(trap.build(), example=trap.draw(1, generator))
    calibration = [trap.draw(1, generator) for _ in range(32)]
    layers = layers_of(network, format)
    assert len(layers) == 3
    whole, most = (
        edgekd.verify(
            convert(
                network,
                format,
                calibration,
                tmp_path / str(len(excluded)),
                ExportOptions(
                    scheme="int8",
                    method="activations" if format == "coreml" else None,
                    excluded_operators=excluded,
                ),
            ),
            network,
            calibration,
            min_agreement=0.0,
        ).sqnr_db
        # One layer's error hides in the others' of Core ML's; it takes all.
        for excluded in ((), tuple(layers if format == "coreml" else layers[:2]))
    )
    assert most > whole


def test_bf16_is_computed_where_the_processor_can_and_never_claimed(tmp_path: Path) -> None:
    need_modules(*FORMATS["openvino"].PACKAGES)
    network = wide()
    artifact = edgekd.export(network, format="openvino", scheme="bf16", out=tmp_path)
    if "avx512_bf16" not in device_facts()["instructions"]:
        with pytest.raises(ConversionError, match="computed in f32"):
            edgekd.verify(artifact, network, samples(network, 64, 1))
        return
    found = edgekd.verify(artifact, network, samples(network, 64, 1))
    assert found.runtime["precision"] == "bf16"
    assert 30 < found.sqnr_db < 75


def test_a_method_that_is_not_there_is_refused_before_any_work(tmp_path: Path) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    with pytest.raises(RecipeError, match="onnx has no method 'octav' for int8") as caught:
        edgekd.export(wide(), format="onnx", scheme="int8", method="octav", out=tmp_path)
    assert "percentile" in str(caught.value)


@pytest.mark.parametrize(("old", "new"), RENAMED_METHODS.items())
def test_the_former_name_of_a_method_is_accepted(old: str, new: str) -> None:
    assert ExportOptions(scheme="int8", method=old) == ExportOptions(scheme="int8", method=new)
    schemes = [methods for module in FORMATS.values() for methods in module.METHODS.values()]
    known = {name for methods in schemes for name in methods}
    assert new in known
    assert old not in known
