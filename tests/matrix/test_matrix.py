"""Every trap network in every format and scheme: exported by one call, verified by another.

Generated from FORMATS, so a new format is tested with no new test.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import edgekd
from edgekd.artifacts.artifact import load_artifact
from edgekd.artifacts.scheme import SCHEMES
from edgekd.cli.result_text import agreement_lines
from edgekd.errors import ConversionError, RecipeError, RefusedError
from edgekd.formats import FORMATS
from edgekd.formats.coreml.quantize import WEIGHT_THRESHOLD
from tests.support import model_zoo as zoo
from tests.support.models import TRAPS, Branching, Trap
from tests.support.project import assert_five_parts
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter

# What a converter of the tested set cannot do, and why.
KNOWN_FAILURES = {
    ("two-inputs", "litert", "int8"): "ai-edge-quantizer 0.10 cuts off an output read elsewhere",
}

# What pnnx 20261020 has no layer of ncnn for, or writes wrongly, as comparing its file with the
# network finds; each is an error that says so.
NOT_IN_NCNN = {
    "focus": "Tensor.slice",  # with a step
    "windows": "Tensor.reshape",  # to more axes than ncnn has
    "pool-avg-pool-ceil": "gives other outputs",
    "then-softsign-logsigmoid": "nn.Softsign",
    "attention-torch": "torch.unbind",  # the batch is no longer the first axis
    "attention-causal": "torch.unbind",
    "attention-masked": "Tensor.to",
    "filled": "Tensor.to",
    "encoder": "torch.eq",
    "positions": "torch.ne",
    "einsum": "has the shape",
    "gru-state": "torch.unbind",
    "lstm-state": "has the shape",
    "chosen": "torch.topk",
    "classes": "torch.argmax",
    "normalized": "torch.std",
}
KNOWN_FAILURES |= {
    (network, "ncnn", scheme): why
    for network, why in NOT_IN_NCNN.items()
    for scheme in ("fp32", "fp16")
}


# What a network computes that is no number in half precision; verifying says so.
OVERFLOWS = {
    ("filled", "coreml", "fp16"): "0 times the lowest float32, which is minus infinity in fp16",
}


@dataclass(frozen=True)
class Cell:
    """One network in one format and scheme."""

    network: str
    format: str
    scheme: str

    def __str__(self) -> str:
        return f"{self.network}-{self.format}-{self.scheme}"


ALL: dict[str, Trap] = {**TRAPS, **zoo.CASES}

NEEDS_NO_SAMPLES = ("int8-dynamic", "int8-weights")

# fp16 is the same program as fp32 with other constants: each network has it in one format.
# int8 is for the traps: what quantizers make of all is for tools/export_matrix.py.
CELLS = [
    Cell(network, format, scheme)
    for number, network in enumerate(ALL)
    for place, (format, module) in enumerate(FORMATS.items())
    for scheme in module.SCHEMES
    if scheme == "fp32"
    or (scheme == "fp16" and number % len(FORMATS) == place)
    or (scheme == "int8" and network in TRAPS)
    or (scheme in NEEDS_NO_SAMPLES and network in TRAPS and number % 3 == place % 3)
]


def export(cell: Cell, out: Path) -> tuple[edgekd.Network, edgekd.Artifact]:
    trap = ALL[cell.network]
    generator = torch.Generator().manual_seed(1)
    network = edgekd.load_network(trap.build(), example=trap.draw(1, generator))
    calibration = [trap.draw(1, generator) for _ in range(64)]
    artifact = edgekd.export(
        network, format=cell.format, scheme=cell.scheme, calibration=calibration, out=out
    )
    return network, artifact


def hollow(cell: Cell) -> bool:
    """Whether all weights are too small for coremltools to quantize any."""
    if cell.format != "coreml" or not cell.scheme.startswith("int8"):
        return False
    sizes = [each.numel() for each in ALL[cell.network].build().parameters()]
    return max(sizes) <= WEIGHT_THRESHOLD


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_an_artifact_agrees_with_its_network_in_its_own_runtime(cell: Cell, tmp_path: Path) -> None:
    need_modules(*FORMATS[cell.format].PACKAGES)
    if (cell.network, cell.format, cell.scheme) in KNOWN_FAILURES:
        with pytest.raises(ConversionError) as caught:
            export(cell, tmp_path)
        if cell.format == "ncnn":
            assert NOT_IN_NCNN[cell.network] in str(caught.value)
        return
    if hollow(cell):
        with pytest.raises(ConversionError, match="Nothing in the network was quantized"):
            export(cell, tmp_path)
        return
    network, artifact = export(cell, tmp_path)
    assert load_artifact(artifact.path.parent) == artifact
    trap = ALL[cell.network]
    generator = torch.Generator().manual_seed(2)
    samples = [trap.draw(1, generator) for _ in range(64)]
    found = edgekd.verify(artifact, network, samples, min_agreement=0.9)
    if (cell.network, cell.format, cell.scheme) in OVERFLOWS:
        assert found.detail == "an output is not finite"
        return
    assert found.outcome is edgekd.Outcome.PASSED, found.detail
    assert found.evidence == ("reference" if cell.format == "coreml" else "device")
    assert found.sqnr_db >= SCHEMES[cell.scheme].sqnr_floor_db
    assert found.sample_count == 64


@pytest.mark.parametrize(
    ("format", "scheme"),
    [
        (name, each)
        for name in FORMATS
        for each in NEEDS_NO_SAMPLES
        if each in FORMATS[name].SCHEMES
    ],
)
def test_weights_of_eight_bits_are_stored_so(format: str, scheme: str, tmp_path: Path) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    network = edgekd.load_network(torch.nn.Linear(512, 512), example=torch.ones(1, 512))
    plain, quantized = (
        edgekd.export(network, format=format, scheme=each, out=tmp_path / each)
        for each in ("fp32", scheme)
    )
    assert quantized.size_bytes < 0.3 * plain.size_bytes


def test_a_scheme_that_would_change_nothing_is_an_error(tmp_path: Path) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    network = edgekd.load_network(torch.nn.Conv2d(3, 4, 3), example=torch.ones(1, 3, 8, 8))
    with pytest.raises(ConversionError, match="no MatMul, Gemm or LSTM to quantize"):
        edgekd.export(network, format="onnx", scheme="int8-dynamic", out=tmp_path)


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_network_gives_the_same_bytes(format: str, tmp_path: Path) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    scheme = "int8" if "int8" in FORMATS[format].SCHEMES else "fp16"
    # Of "signal" every tensor is too small for coremltools to quantize it.
    cell = Cell("residual" if format == "coreml" else "signal", format, scheme)
    digests = [export(cell, tmp_path / str(number))[1].sha256 for number in range(2)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("format", FORMATS)
def test_a_network_no_converter_takes_is_an_error_with_its_cause(
    format: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    network = edgekd.load_network(Branching(), example=torch.ones(1, 4))
    with pytest.raises(ConversionError) as caught:
        edgekd.export(network, format=format, out=tmp_path)
    assert caught.value.__cause__ is not None
    told = str(caught.value)
    assert "The network has data-dependent control flow" in told
    assert "tests/support/models.py:" in told
    assert "if features.sum() > 0" in told
    assert_five_parts(told)
    assert capfd.readouterr().out == "", "a converter's chatter is in the log"


def test_a_batch_of_four_is_exported_and_verified_as_such(tmp_path: Path) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    trap, generator = TRAPS["residual"], torch.Generator().manual_seed(3)
    network = edgekd.load_network(trap.build(), example=trap.draw(4, generator))
    artifact = edgekd.export(network, format="onnx", out=tmp_path)
    found = edgekd.verify(artifact, network, [trap.draw(4, generator) for _ in range(3)])
    assert found.sample_count == 12
    assert found.outcome is edgekd.Outcome.PASSED
    with pytest.raises(ConversionError, match="do not fill batches of 4"):
        edgekd.verify(artifact, network, [trap.draw(3, generator)])


def test_bad_input_to_export_and_verify_is_told(tmp_path: Path) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    trap, generator = TRAPS["shared-weights"], torch.Generator().manual_seed(4)
    network = edgekd.load_network(trap.build(), example=trap.draw(1, generator))
    with pytest.raises(RecipeError, match="int8 needs calibration samples"):
        edgekd.export(network, format="onnx", scheme="int8", out=tmp_path)
    wrong = [{"features": torch.zeros(1, 7)}]
    with pytest.raises(RecipeError, match="calibration sample does not fit"):
        edgekd.export(network, format="onnx", scheme="int8", calibration=wrong, out=tmp_path)
    with pytest.raises(RefusedError, match="cannot be written in palettized"):
        edgekd.export(network, format="onnx", scheme="palettized", out=tmp_path)
    artifact = edgekd.export(network, format="onnx", out=tmp_path)
    with pytest.raises(RecipeError, match="without samples"):
        edgekd.verify(artifact, network, [])
    with pytest.raises(RecipeError, match="sample does not fit"):
        edgekd.verify(artifact, network, [{"image": torch.zeros(1, 6)}])
    artifact.path.write_bytes(artifact.path.read_bytes()[:100])
    with pytest.raises(RecipeError, match="is not the file its card describes"):
        load_artifact(artifact.path)
    (artifact.path.parent / "artifact.json").unlink()
    with pytest.raises(ConversionError, match="load-failed"):
        edgekd.verify(load_artifact(artifact.path), network, [trap.draw(1, generator)])


def test_openvino_computes_in_float32_and_says_what_it_would_take_untold(tmp_path: Path) -> None:
    need_modules(*FORMATS["openvino"].PACKAGES)
    import openvino

    network, artifact = export(Cell("residual", "openvino", "fp32"), tmp_path)
    found = edgekd.verify(artifact, network, [network.example])
    untold = openvino.Core().compile_model(str(artifact.path), "CPU")
    default = untold.get_property("INFERENCE_PRECISION_HINT").to_string()
    assert (found.runtime["precision"], found.runtime["default_precision"]) == ("f32", default)
    (_, by) = agreement_lines(found)
    assert "computed in f32" in by
    assert (f"the default is {default}" in by) == (default != "f32")


def test_convolutions_over_time_have_no_transposes_between_them_in_litert(tmp_path: Path) -> None:
    need_modules(*FORMATS["litert"].PACKAGES)
    _, artifact = export(Cell("signal", "litert", "fp32"), tmp_path)
    assert artifact.lineage["transposes"] == 1, "of the input; the output has no channels"
    found = artifact.lineage["operators"]
    assert found["CONV_2D"] + found.get("DEPTHWISE_CONV_2D", 0) == 2
    assert artifact.lineage["method"] == FORMATS["litert"].SCHEMES["fp32"], "by the first way"


def refuse(*_: object, **__: object) -> None:
    raise NotImplementedError("no such operator")


@pytest.mark.parametrize(
    ("format", "first", "by"),
    [
        ("coreml", "_simplified", "by TorchScript: torch.export failed"),
        ("onnx", "_write", "by TorchScript: torch.export failed"),
        ("litert", "_simplified", "by torch.export, decomposed: torch.export failed"),
    ],
)
def test_where_the_first_way_fails_the_next_is_taken_and_named(
    format: str, first: str, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    monkeypatch.setattr(f"edgekd.formats.{format}.converter.{first}", refuse)
    network, artifact = export(Cell("residual", format, "fp32"), tmp_path)
    assert by in artifact.lineage["method"]
    assert "no such operator" in artifact.lineage["method"]
    trap = TRAPS["residual"]
    samples = [trap.draw(1, torch.Generator().manual_seed(2)) for _ in range(4)]
    assert edgekd.verify(artifact, network, samples).outcome is edgekd.Outcome.PASSED


class Functions(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x) * 2


@pytest.mark.parametrize(
    ("format", "scheme"),
    [("litert", "int8-dynamic"), ("litert", "int8-weights"), ("openvino", "int8-weights")],
)
def test_a_file_in_which_nothing_was_quantized_is_none(
    format: str, scheme: str, tmp_path: Path
) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    network = edgekd.load_network(Functions(), example={"x": torch.ones(1, 64)})
    with pytest.raises(ConversionError, match="Nothing in the network was quantized") as caught:
        edgekd.export(network, format=format, scheme=scheme, out=tmp_path)
    assert_five_parts(str(caught.value))
