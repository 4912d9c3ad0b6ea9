"""Files that take and give whole numbers: what the numbers mean, in every format's own runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgekd
from edgekd.artifacts.artifact import describe
from edgekd.artifacts.quantization_params import QuantizationParams, as_numbers, as_values
from edgekd.benchmarking.measure import MeasurementSettings, measure
from edgekd.conversion.export import convert
from edgekd.conversion.preprocessing import embed_preprocessing
from edgekd.data import joined
from edgekd.devices.execution import Ran, run_artifact
from edgekd.distillation.black_box import BlackBox, load_black_box
from edgekd.errors import RecipeError, RefusedError
from edgekd.evidence.measurement import Measurement
from edgekd.formats import FORMATS
from edgekd.formats.capabilities import integer_io_formats, quantization
from edgekd.formats.options import ExportOptions
from edgekd.network.preprocessing import to_nhwc
from edgekd.pipeline.candidates.mixed_precision import layers_of
from edgekd.recipe.benchmark import QUICK
from edgekd.recipe.preprocessing import Raw
from edgekd.verification.layer_sensitivity import layer_sensitivity
from tests.support.models import TRAPS
from tests.support.project import assert_five_parts
from tests.support.runtimes import RUN
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter

IO_FORMATS = integer_io_formats()
IOS = ("int8", "uint8")
CASES = [
    *(("residual", format, ("float32", *IOS)) for format in IO_FORMATS),
    ("two-inputs", "onnx", ("float32", "uint8")),
    ("two-inputs", "openvino", ("float32", "int8")),
    ("two-inputs", "litert", IOS),
    ("attention", "onnx", ("float32", "int8")),
    ("attention", "litert", ("float32", "uint8")),
]
"""A network, a format, and what its files take. ai-edge-quantizer 0.10 cannot write an output in
float that another operator reads, as the one of two inputs has: see the matrix."""


def drawn(name: str, count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    given = TRAPS[name].draw(count, torch.Generator().manual_seed(seed))
    return [{key: value[i : i + 1] for key, value in given.items()} for i in range(count)]


def network_of(name: str) -> edgekd.Network:
    return edgekd.load_network(TRAPS[name].build(), example=drawn(name, 1, 0)[0])


def written(
    network: edgekd.Network, format: str, io: Any, out: Path, samples: list[Any], **more: Any
) -> edgekd.Artifact:
    need_modules(*FORMATS[format].PACKAGES)
    return edgekd.export(
        network, format=format, scheme="int8", calibration=samples, out=out, io=io, **more
    )


def whole(files: Mapping[str, edgekd.Artifact]) -> dict[str, edgekd.Artifact]:
    """Those of `files` that take whole numbers."""
    return {io: file for io, file in files.items() if io != "float32"}


@pytest.fixture(scope="module")
def three(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A network by name, itself, and its files by what they take."""
    name, format, ios = request.param
    network, samples = network_of(name), drawn(name, 32, 1)
    out = tmp_path_factory.mktemp("files")
    return name, network, {io: written(network, format, io, out / io, samples) for io in ios}


whatever = pytest.mark.parametrize("three", CASES, indirect=True, ids=lambda c: f"{c[0]}-{c[1]}")
beside_float = pytest.mark.parametrize(
    "three",
    [case for case in CASES if "float32" in case[2]],
    indirect=True,
    ids=lambda c: f"{c[0]}-{c[1]}",
)


@whatever
def test_one_who_knows_the_file_and_its_steps_gets_what_edgekd_gets(three: Any) -> None:
    name, network, files = three
    test = joined(drawn(name, 4, 2))
    for io, artifact in whole(files).items():
        steps = artifact.quantization
        assert steps == quantization(artifact.format, artifact.path)
        real = [
            spec.name
            for spec in (*network.signature.inputs, *network.signature.outputs)
            if spec.dtype == "float32"
        ]
        assert sorted(steps) == sorted(real)
        assert {step.dtype for step in steps.values()} == {io}
        ran = run_artifact(artifact, test, "local")
        assert isinstance(ran, Ran)
        given = to_nhwc(test, artifact.channels_last)
        for number in range(4):
            feed = {}
            for key, value in given.items():
                array = value[number : number + 1].numpy()
                if key in steps:  # As a manifest tells it, in the words of any language.
                    ends = np.iinfo(steps[key].dtype)
                    array = np.rint(array / steps[key].scale) + steps[key].zero_point
                    array = array.clip(ends.min, ends.max).astype(io)
                feed[key] = array.astype(np.int32) if array.dtype == np.int64 else array
                if artifact.format != "litert":
                    feed[key] = array
            for key, found in RUN[artifact.format](artifact.path, feed).items():
                assert found.dtype == io
                value = steps[key].scale * (found.astype(np.float64) - steps[key].zero_point)
                ours = ran.outputs[key][number : number + 1].numpy()
                assert np.allclose(value, ours, rtol=1e-6, atol=0)


@beside_float
def test_the_numbers_are_those_of_the_file_in_float_rounded(three: Any) -> None:
    name, _, files = three
    test = joined(drawn(name, 32, 3))
    plain = run_artifact(files["float32"], test, "local")
    assert isinstance(plain, Ran)
    for io, artifact in whole(files).items():
        ran = run_artifact(artifact, test, "local")
        assert isinstance(ran, Ran)
        for key, value in plain.outputs.items():
            step = files[io].quantization[key]
            ends = as_values({key: np.array(np.iinfo(io).min).astype(io)}, {key: step})[key]
            last = as_values({key: np.array(np.iinfo(io).max).astype(io)}, {key: step})[key]
            off = (ran.outputs[key] - value.clamp(float(ends), float(last))).abs() / step.scale
            # Kernels that fuse the last rounding may take a sum at a half to the other side.
            assert float(off.max()) <= 1.01
            assert float((off > 0.51).double().mean()) <= 0.05


@whatever
def test_it_is_verified_by_the_values_its_numbers_stand_for(three: Any) -> None:
    name, network, files = three
    samples = drawn(name, 64, 4)
    found = [edgekd.verify(file, network, samples).sqnr_db for file in whole(files).values()]
    assert min(found) > 20
    # int8 and uint8 are 128 apart, and the same file otherwise.
    assert max(found) - min(found) < 0.5
    # A copy without a card says itself what its numbers are.
    artifact = [*whole(files).values()][-1]
    if not artifact.channels_last:
        bare = describe(artifact.path, artifact.format, None)
        assert edgekd.verify(bare, network, samples).sqnr_db == found[-1]


@beside_float
def test_its_layers_are_those_of_the_file_in_float(three: Any) -> None:
    name, network, files = three
    samples = drawn(name, 4, 5)
    plain = layer_sensitivity(files["float32"], network, samples)
    found = layer_sensitivity([*files.values()][-1], network, samples)
    pairs = [
        (ours.sqnr_db, theirs.sqnr_db)
        for ours, theirs in zip(plain, found, strict=True)
        if ours.module and not ours.module.startswith("(output") and ours.sqnr_db is not None
    ]
    assert pairs
    for ours, theirs in pairs:
        assert theirs == pytest.approx(ours, abs=3)


def test_it_is_timed_beside_one_of_float_and_alone(tmp_path: Path) -> None:
    network, samples = network_of("two-inputs"), drawn("two-inputs", 8, 1)
    files = {io: written(network, "onnx", io, tmp_path / io, samples) for io in ("float32", "int8")}
    for inputs in (joined(samples), None):
        found = measure(
            files,
            MeasurementSettings(evidence="host", inputs=inputs, protocol=QUICK),
            parents={},
        )
        assert all(isinstance(each, Measurement) for each in found.values())


@pytest.mark.parametrize("format", IO_FORMATS)
def test_raw_images_and_ids_stay_what_they_are(format: str, tmp_path: Path) -> None:
    network = network_of("residual")
    raw = Raw(dtype="uint8", scale=1 / 255, mean=[0.5], std=[0.25])
    generator = torch.Generator().manual_seed(6)
    images = torch.randint(0, 256, (32, 3, 8, 8), generator=generator)
    example = {"image": (images[:1] / 255 - 0.5) / 0.25}
    network = edgekd.load_network(network.module, example=example)
    folded = embed_preprocessing(network, {"image": raw}, "probabilities")
    samples = [{"image": image[None]} for image in images.permute(0, 2, 3, 1).to(torch.uint8)]
    artifact = written(folded, format, "int8", tmp_path, samples)
    (step,) = artifact.quantization.items()
    assert step[0] == "output"
    # Probabilities are of 0 to 1, whatever calibration saw.
    assert step[1].scale == pytest.approx(1 / 255, rel=0.01)
    assert edgekd.verify(artifact, folded, samples).sqnr_db > 20


def test_a_teacher_of_whole_numbers_is_read_as_one_of_real_ones(tmp_path: Path) -> None:
    network, samples = network_of("shared-weights"), drawn("shared-weights", 16, 1)
    artifact = written(network, "onnx", "uint8", tmp_path, samples)
    (artifact.path.parent / "artifact.json").unlink()
    teacher = load_black_box("model.onnx", base=artifact.path.parent)
    assert isinstance(teacher, BlackBox)
    inputs = joined(samples)
    ran = run_artifact(artifact, inputs, "local")
    assert isinstance(ran, Ran)
    assert torch.equal(teacher.outputs(inputs), ran.outputs["output"])


def test_an_output_of_a_layer_in_float_is_rounded_too(tmp_path: Path) -> None:
    need_modules(*FORMATS["litert"].PACKAGES)
    network, samples = network_of("residual"), drawn("residual", 16, 1)
    excluded = tuple(layers_of(network, "litert")[-1:])
    options = ExportOptions(scheme="int8", excluded_operators=excluded, io="uint8")
    artifact = convert(network, "litert", samples, tmp_path, options)
    assert set(artifact.quantization) == {"image", "output"}
    assert edgekd.verify(artifact, network, drawn("residual", 16, 2)).sqnr_db > 20


def test_openvino_takes_onnx_runtimes_whole_numbers(tmp_path: Path) -> None:
    network, samples = network_of("residual"), drawn("residual", 16, 1)
    artifact = written(network, "openvino", "uint8", tmp_path, samples, method="onnxruntime")
    steps = artifact.quantization
    assert {name: step.dtype for name, step in steps.items()} == dict.fromkeys(
        ("image", "output"), "uint8"
    )
    assert edgekd.verify(artifact, network, drawn("residual", 16, 2)).sqnr_db > 20


REFUSED = {
    "coreml": ("coreml", "int8", "int8", RefusedError, "iOS 26"),
    "ncnn": ("ncnn", "fp32", "uint8", RefusedError, "float32"),
    "float": ("onnx", "fp32", "uint8", RefusedError, "static int8"),
    "sixteen": ("litert", "int8-int16", "int8", RefusedError, "static int8"),
    "unknown": ("onnx", "int8", "int4", RecipeError, "uint8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_whole_numbers_is_refused_before_any_work(name: str, tmp_path: Path) -> None:
    format, scheme, io, kind, told = REFUSED[name]
    options: dict[str, Any] = {"format": format, "scheme": scheme, "io": io}
    with pytest.raises(kind) as raised:
        edgekd.export(network_of("residual"), out=tmp_path / "build", **options)
    assert_five_parts(str(raised.value))
    assert told in str(raised.value)
    assert not (tmp_path / "build").exists()


def test_numbers_of_a_step_are_what_onnx_quantizes_to() -> None:
    need_modules("onnx")
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])
    whole = helper.make_tensor_value_info("y", TensorProto.UINT8, [None])
    scale = helper.make_tensor("s", TensorProto.FLOAT, [], [0.25])
    zero = helper.make_tensor("z", TensorProto.UINT8, [], [7])
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    graph = helper.make_graph([node], "one", [value], [whole], [scale, zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    given = np.arange(-20, 80, 0.125, dtype=np.float32)
    (theirs,) = ReferenceEvaluator(model).run(None, {"x": given})
    ours = as_numbers({"x": given}, {"x": QuantizationParams(0.25, 7, "uint8")})["x"]
    assert (ours == theirs).all()
