"""What is read from saved files, and what is told of them, held against modules and runtimes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import edgekd
from edgekd.artifacts.graph import Graph, OperatorKind
from edgekd.artifacts.target import load_target
from edgekd.conversion.lint import LintFinding, lint
from edgekd.errors import ConversionError
from edgekd.formats import FORMATS
from edgekd.formats.inspection import read_graph
from tests.matrix.test_matrix import KNOWN_FAILURES
from tests.support.architectures import ARCHITECTURES
from tests.support.models import TRAPS
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter

NETWORKS = {**TRAPS, **ARCHITECTURES}
CONVOLUTIONS = {
    "onnx": ("Conv",),
    "openvino": ("Convolution", "GroupConvolution"),
    "litert": ("CONV_2D", "DEPTHWISE_CONV_2D"),
    "coreml": ("conv",),
    "ncnn": ("Convolution", "ConvolutionDepthWise", "Convolution1D", "InnerProduct"),
}


@cache
def target_of(format: str) -> edgekd.artifacts.target.Target:
    named = "iphone-15-coreml" if format == "coreml" else f"x86-cpu-{format}"
    return load_target(named)


def export(name: str, format: str, scheme: str, out: Path) -> tuple[nn.Module, Path]:
    """The module `name` and the file of it."""
    trap, generator = NETWORKS[name], torch.Generator().manual_seed(1)
    module = trap.build()
    network = edgekd.load_network(module, example=trap.draw(1, generator))
    calibration = [trap.draw(1, generator) for _ in range(8)]
    artifact = edgekd.export(
        network, format=format, scheme=scheme, calibration=calibration, out=out
    )
    return module, artifact.path


def findings(path: Path, format: str, scheme: str) -> tuple[Graph, list[LintFinding]]:
    graph = read_graph(path, format)
    return graph, lint(graph, target_of(format), scheme)


def fallen(found: list[LintFinding]) -> Counter[str]:
    """How many operators of each type are said to fall back."""
    counts: Counter[str] = Counter()
    for each in found:
        counts[each.operator] += each.count if each.kind == "falls-back" else 0
    return +counts


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["residual", "depthwise", "concat", "signal"])
def test_a_file_has_the_convolutions_of_its_module(name: str, format: str, tmp_path: Path) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    module, path = export(name, format, "fp32", tmp_path)
    graph = read_graph(path, format)
    # pnnx makes a matrix product of a convolution over one place.
    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear) if format == "ncnn" else (nn.Conv1d, nn.Conv2d)
    layers = [each for each in module.modules() if isinstance(each, kinds)]
    assert graph.total(CONVOLUTIONS[format]) == len(layers)
    assert graph.count == sum(graph.operators.values())
    assert (graph.inputs, graph.outputs) == (1, 1)
    assert graph.unrolled is None
    assert not any(each in graph.operators for each in ("Constant", "Const", "const", "Parameter"))
    if format != "ncnn":  # Whose files do not say.
        assert any(kind.takes for kind in graph.kinds), "what operators take is told"


@pytest.mark.parametrize("format", FORMATS)
def test_inputs_and_outputs_are_counted(format: str, tmp_path: Path) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    graph = read_graph(export("two-inputs", format, "fp32", tmp_path)[1], format)
    assert (graph.inputs, graph.outputs) == (2, 2)


@pytest.mark.parametrize("format", ["onnx", "openvino", "litert"])
def test_a_recurrent_layer_is_whole_or_told_to_be_unrolled(format: str, tmp_path: Path) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    graph, found = findings(export("recurrent", format, "fp32", tmp_path)[1], format, "fp32")
    kinds = [each.kind for each in found]
    if format == "litert":
        assert "unrolled" in kinds
        assert graph.operators["TANH"] == 6, "one for each step"
    else:
        assert graph.operators[{"onnx": "GRU", "openvino": "GRUSequence"}[format]] == 1
        assert kinds == []


def left_out(path: Path) -> Counter[str]:
    """The operator types that LiteRT itself does not give to XNNPACK.

    Its list of operators has those of the file and, at the end, those that it calls XNNPACK with:
    what one of these computes is what its outputs need, back to its inputs.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    operators: list[dict[str, Any]] = interpreter._get_ops_details()
    delegates = [each for each in operators if each["op_name"] == "DELEGATE"]
    plain = [each for each in operators if each["op_name"] != "DELEGATE"]
    maker = {int(tensor): each for each in plain for tensor in each["outputs"]}
    taken = set()
    for delegate in delegates:
        inputs = {int(tensor) for tensor in delegate["inputs"]}
        wanted = [int(tensor) for tensor in delegate["outputs"]]
        while wanted:
            tensor = wanted.pop()
            by = maker.get(tensor)
            if tensor not in inputs and by is not None and by["index"] not in taken:
                taken.add(by["index"])
                wanted += [int(place) for place in by["inputs"]]
    return Counter(str(each["op_name"]) for each in plain if each["index"] not in taken)


@pytest.mark.parametrize("scheme", ["fp32", "int8"])
@pytest.mark.parametrize("name", [*TRAPS, "resnet", "mobilenet-v3", "densenet", "tcn", "crnn"])
def test_what_is_said_to_fall_back_is_what_litert_leaves_out_of_xnnpack(
    name: str, scheme: str, tmp_path: Path
) -> None:
    need_modules(*FORMATS["litert"].PACKAGES)
    if (name, "litert", scheme) in KNOWN_FAILURES:
        with pytest.raises(ConversionError):
            export(name, "litert", scheme, tmp_path)
        return
    path = export(name, "litert", scheme, tmp_path)[1]
    assert fallen(findings(path, "litert", scheme)[1]) == left_out(path)


class Between(nn.Module):
    """An operator between two convolutions."""

    def __init__(self, operator: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.operator = operator

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.operator(self.first(image)))


OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "stride": lambda x: x[:, :, ::2, ::2],
    "cumulated": lambda x: x.cumsum(2),
    "log-softmax": lambda x: x.log_softmax(1),
    "nearest": lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "maximum": lambda x: torch.maximum(x, 0.5 * x),
    "extremes": lambda x: x + x.amax((2, 3), keepdim=True),
    "products": lambda x: x @ x.transpose(2, 3),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_of_single_operators_too_the_rules_say_what_litert_does(name: str, tmp_path: Path) -> None:
    need_modules(*FORMATS["litert"].PACKAGES)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    samples = [{"image": torch.randn(1, 3, 8, 8, generator=generator)} for _ in range(4)]
    network = edgekd.load_network(Between(OPERATORS[name]).eval(), example=samples[0])
    for scheme in ("fp32", "int8"):
        path = edgekd.export(
            network, format="litert", scheme=scheme, calibration=samples, out=tmp_path / scheme
        ).path
        assert fallen(findings(path, "litert", scheme)[1]) == left_out(path), scheme


def test_functions_and_inner_graphs_of_onnx_are_counted(tmp_path: Path) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    import onnx
    from onnx import TensorProto, helper

    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    chosen = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("Mul", ["x", "x"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])],
        )
        for name in ("then", "else")
    }
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    twice = [helper.make_node("Tanh", ["a"], ["b"]), helper.make_node("Exp", ["b"], ["d"])]
    function = helper.make_function("own", "Two", ["a"], ["d"], twice, opsets)
    nodes = [
        helper.make_node("If", ["c"], ["y"], **branches),
        helper.make_node("Two", ["y"], ["z"], domain="own"),
        helper.make_node("Two", ["z"], ["w"], domain="own"),
    ]
    result = helper.make_tensor_value_info("w", TensorProto.FLOAT, [2])
    graph = helper.make_graph(nodes, "g", [given, chosen], [result])
    onnx.save(
        helper.make_model(graph, opset_imports=opsets, functions=[function]), tmp_path / "m.onnx"
    )
    found = read_graph(tmp_path / "m.onnx", "onnx")
    assert found.operators == {"Exp": 2, "If": 1, "Mul": 2, "Tanh": 2}
    assert found.kinds[OperatorKind("Mul", ("float32", "float32"), ("float32",))] == 2
    assert (found.inputs, found.outputs) == (2, 1)


# ONNX Runtime's names of the operators that it made of several.
FUSED = {"SkipLayerNormalization": {"Add", "LayerNormalization"}}
# Those that have one name for all types; where they are in int8 is seen in what they read.
MOVES = {"MaxPool", "Reshape", "Transpose", "Gather", "Slice", "Squeeze", "Concat"}


def computed_in_float(path: Path, scratch: Path) -> set[str]:
    """The operator types that ONNX Runtime itself computes in float32 in an int8 file."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(scratch)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names: set[str] = set()
    for node in onnx.load(scratch).graph.node:
        if not node.op_type.startswith(("Q", "DequantizeLinear")):
            names |= FUSED.get(node.op_type, {node.op_type}) - MOVES
    return names


@pytest.mark.parametrize("name", ["concat", "attention", "recurrent", "mobilenet-v3", "unet"])
def test_what_is_said_to_be_in_float_is_what_onnx_runtime_computes_so(
    name: str, tmp_path: Path
) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    path = export(name, "onnx", "int8", tmp_path)[1]
    found = findings(path, "onnx", "int8")[1]
    assert set(fallen(found)) == computed_in_float(path, tmp_path / "optimized.onnx")


@pytest.mark.parametrize("name", ["recurrent", "attention", "residual"])
def test_what_is_said_to_be_in_float_is_what_openvino_computes_so(
    name: str, tmp_path: Path
) -> None:
    need_modules(*FORMATS["openvino"].PACKAGES)
    import openvino

    path = export(name, "openvino", "int8", tmp_path)[1]
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    runs = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        about = {key: value.astype(str) for key, value in node.get_rt_info().items()
                 if key in ("layerType", "runtimePrecision")}  # fmt: skip
        runs[about["layerType"], about["runtimePrecision"]] += 1
    said = fallen(findings(path, "openvino", "int8")[1])
    kept = {("RNNSeq", "f32"): "GRUSequence", ("MVN", "f32"): "MVN"}
    assert said == Counter({name: runs[key] for key, name in kept.items() if runs[key]})


@pytest.mark.parametrize("format", ["openvino", "litert", "onnx"])
def test_float16_weights_are_told_to_be_no_faster(format: str, tmp_path: Path) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    found = findings(export("residual", format, "fp16", tmp_path)[1], format, "fp16")[1]
    (slow,) = [each for each in found if each.kind == "slow"]
    assert slow.count > 0


def test_the_neural_engine_refuses_float32_and_takes_float16(tmp_path: Path) -> None:
    need_modules(*FORMATS["coreml"].PACKAGES)
    single = findings(export("residual", "coreml", "fp32", tmp_path / "a")[1], "coreml", "fp32")[1]
    assert [each.kind for each in single] == ["refused"]
    half = findings(export("residual", "coreml", "fp16", tmp_path / "b")[1], "coreml", "fp16")[1]
    assert half == []
    path = export("attention", "coreml", "fp16", tmp_path / "c")[1]
    assert fallen(findings(path, "coreml", "fp16")[1]) == {"gather": 1}


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_is_not_of_the_format_is_told(format: str, tmp_path: Path) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    path = tmp_path / f"model{FORMATS[format].SUFFIX}"
    place = path if format != "coreml" else path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"\x07nothing of the kind\xff")
    with pytest.raises(ValueError, match=r"model.* is no "):
        read_graph(path, format)
    with pytest.raises(OSError, match="No such file"):
        read_graph(tmp_path / "absent", format)
