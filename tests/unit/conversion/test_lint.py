"""Each rule of the linter once, on graphs written by hand, and each of its sentences read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from edgekd.artifacts.graph import Graph, OperatorKind
from edgekd.artifacts.target import Fact, Target, load_target
from edgekd.conversion.lint import lint
from edgekd.formats import FORMATS
from edgekd.formats.capabilities import operator_roles
from edgekd.formats.coreml.lint_rules import NEURAL_ENGINE
from edgekd.formats.inspection import read_graph
from edgekd.formats.litert.lint_rules import XNNPACK
from edgekd.formats.onnx.lint_rules import FIXES as ONNX_FIXES
from edgekd.formats.onnx.lint_rules import INT8 as ONNX_INT8

PI = load_target("raspberry-pi-5-litert")
LITERT, ONNX = load_target("x86-cpu-litert"), load_target("x86-cpu-onnx")
OPENVINO, PHONE = load_target("x86-cpu-openvino"), load_target("iphone-15-coreml")


def graph(format: str, *kinds: OperatorKind, **counts: int) -> Graph:
    """A graph of `kinds`, once each, and of operators whose types are not told."""
    found = dict.fromkeys(kinds, 1)
    named = {OperatorKind(name): count for name, count in counts.items()}
    return Graph(format, {**found, **named}, 1, 1, operator_roles(format))


def conv(kind: str = "float32") -> OperatorKind:
    return OperatorKind("CONV_2D", (kind, f"const {kind}", "const int32"), (kind,))


@dataclass(frozen=True)
class Case:
    """A graph, and the one thing that is to be found in it."""

    name: str
    graph: Graph
    target: Target
    scheme: str
    kind: str
    operator: str
    count: int
    why: str
    source: str

    def __str__(self) -> str:
        return self.name


def falls(name: str, kind: OperatorKind, why: str, scheme: str = "int8") -> Case:
    """A case of one operator that XNNPACK does not take, among convolutions that it takes."""
    among = Graph("litert", {conv("int8"): 5, kind: 2}, 1, 1, operator_roles("litert"))
    operator = kind.operator
    return Case(name, among, LITERT, scheme, "falls-back", operator, 2, why, "xnnpack_delegate.cc")


ALONE = "it runs in LiteRT's own kernel, between two calls of XNNPACK"


def quantized(operator: str, *takes: str, steps: tuple[float, ...] = ()) -> OperatorKind:
    return OperatorKind(operator, takes or ("int8",), ("int8",), steps)


TWO = ("int8", "int8")
CASES = [
    falls(
        "unknown",
        OperatorKind("PADV2", ("int8",), ("int8",)),
        "not among the operators XNNPACK takes",
    ),
    falls("type", quantized("HARD_SWISH"), "taken by XNNPACK in float32, and is in int8"),
    falls(
        "integers", OperatorKind("RESHAPE", ("int32", "const int32"), ("int32",)), "and is in int32"
    ),
    falls(
        "computed-weights",
        quantized("FULLY_CONNECTED", "int8", "int8", ""),
        "where its input 1 is a constant, and it is computed",
    ),
    falls("inputs", quantized("CONCATENATION", *["int8"] * 6), "has 6 inputs, and XNNPACK takes 5"),
    falls("ranges", quantized("SUB", *TWO, steps=(1e-9, 0.1, 0.1)), "too different ranges"),
    falls("product", quantized("MUL", *TWO, steps=(1e-3, 1e-4, 0.1)), "too different ranges"),
    falls("requantized", quantized("QUANTIZE", steps=(1.0, 1e-3)), "too different ranges"),
    Case(
        "transposes",
        graph("litert", conv(), TRANSPOSE=6, RESHAPE=4),
        # A target of which the processor is not the CPU: only what any runtime meets.
        replace(LITERT, accelerator="gpu"),
        "fp32",
        "slow",
        "TRANSPOSE",
        6,
        "6 transposes and 4 reshapes stand between the convolutions, which want channels last",
        "1.17 times as fast in fp32",
    ),
    Case(
        "unrolled",
        graph("litert", LOGISTIC=24, TANH=12, FULLY_CONNECTED=13, SLICE=40),
        replace(LITERT, accelerator="gpu"),
        "fp32",
        "unrolled",
        "LOGISTIC, TANH",
        89,
        "A recurrent layer is unrolled step by step: 24 LOGISTIC, 12 TANH and 13 matrix "
        "products among 89 operators",
        "2432 operators",
    ),
    Case(
        "onnx-no-kernel",
        graph("onnx", OperatorKind("Conv", ("uint8", "const int8"), ("uint8",)), HardSigmoid=7),
        ONNX,
        "int8",
        "falls-back",
        "HardSigmoid",
        7,
        "HardSigmoid has no int8 kernel in ONNX Runtime: it is computed in float32",
        "qdq_selector_action_transformer.cc",
    ),
    Case(
        "onnx-left-in-float",
        graph("onnx", OperatorKind("Softmax", ("float32",), ("uint8",))),
        ONNX,
        "int8",
        "falls-back",
        "Softmax",
        1,
        "Softmax is not quantized in the file: ONNX Runtime computes it in float32",
        "qdq_selector_action_transformer.cc",
    ),
    Case(
        "openvino-recurrent",
        graph("openvino", GRUSequence=1, MatMul=1),
        OPENVINO,
        "int8",
        "falls-back",
        "GRUSequence",
        1,
        "GRUSequence has no int8 kernel in OpenVINO's CPU plugin: it is computed in float32",
        "get_runtime_model()",
    ),
    Case(
        "neural-engine-precision",
        graph(
            "coreml",
            OperatorKind("conv", gives=("float32",)),
            OperatorKind("relu", gives=("float32",)),
        ),
        PHONE,
        "fp32",
        "refused",
        "conv, relu",
        2,
        "The Neural Engine computes in float16, and these operators are in float32",
        "docs/16-bit.md",
    ),
    Case(
        "openvino-half",
        graph("openvino", OperatorKind("Convert", ("const float16",), ("float32",)), Convolution=1),
        OPENVINO,
        "fp16",
        "slow",
        "Convert",
        1,
        "fp16 is storage only: weights are widened when the model is compiled",
        "measured: 0.99 to 1.12 times",
    ),
    Case(
        "onnx-half",
        graph("onnx", OperatorKind("Conv", ("float16", "const float16"), ("float16",))),
        ONNX,
        "fp16",
        "slow",
        "float16",
        1,
        "fp16 is storage only: computed in fp32 between casts",
        "measured: 0.78 to 1.26 times",
    ),
    Case(
        "litert-half",
        graph("litert", OperatorKind("DEQUANTIZE", ("const float16",), ("float32",)), conv()),
        PI,
        "fp16",
        "slow",
        "DEQUANTIZE",
        1,
        "XNNPACK widens float16 weights to float32",
        "tflite/delegates/xnnpack/README.md",
    ),
    Case(
        "no-dot-product",
        graph("litert", conv("int8")),
        replace(PI, facts={"int8_instructions": Fact([], "the profile's source")}),
        "int8",
        "slow",
        "CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED",
        1,
        "has none of asimddp or i8mm: int8 takes more instructions than fp32 there",
        "the profile's source; measured",
    ),
    *(
        Case(
            f"neural-engine-{operator}",
            graph(
                "coreml",
                OperatorKind("conv", gives=("float16",)),
                OperatorKind(operator, gives=("float16",)),
            ),
            PHONE,
            "fp16",
            "falls-back",
            operator,
            1,
            f"{operator} is not computed by the Neural Engine: it runs on the CPU",
            "https://",
        )
        for operator in NEURAL_ENGINE
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_a_target_does_not_take_is_told_with_its_source(case: Case) -> None:
    (found,) = lint(case.graph, case.target, case.scheme)
    assert (found.kind, found.operator, found.count) == (case.kind, case.operator, case.count)
    assert case.why in found.why
    assert (ALONE in found.why) == ("xnnpack_delegate.cc" in found.source)
    assert case.source in found.source
    assert found.fix, "what to do, or that nothing need be done"


def taken(operator: str, kind: str) -> OperatorKind:
    """An operator that XNNPACK takes, of the most inputs it may have, all of the same range."""
    rule = XNNPACK[operator]
    last = max((*(rule.data or (4,)), *rule.constant))
    takes = [f"const {kind}" if place in rule.constant else kind for place in range(last + 1)]
    steps = (0.1,) * (len(takes) + 1) if kind == "int8" and operator != "MUL" else ()
    return OperatorKind(operator, tuple(takes), (kind,), steps)


CLEAN = {
    "litert-fp32": (LITERT, "fp32", [taken(name, "float32") for name in XNNPACK]),
    "litert-int8": (
        PI,
        "int8",
        [taken(name, "int8") for name, rule in XNNPACK.items() if "int8" in rule.types],
    ),
    "onnx-fp32": (ONNX, "fp32", [OperatorKind(name) for name in (*ONNX_INT8, *ONNX_FIXES)]),
    "onnx-int8": (
        ONNX,
        "int8",
        [OperatorKind(name, ("uint8", "const int8"), ("uint8",)) for name in ONNX_INT8],
    ),
    "openvino-fp32": (
        OPENVINO,
        "fp32",
        [OperatorKind("GRUSequence"), OperatorKind("MVN"), OperatorKind("Transpose")],
    ),
    "coreml-fp16": (
        PHONE,
        "fp16",
        [OperatorKind("conv", ("float16",), ("float16",)), OperatorKind("cast")],
    ),
}


@pytest.mark.parametrize("name", CLEAN)
def test_in_a_graph_of_what_the_runtime_takes_nothing_is_found(name: str) -> None:
    target, scheme, kinds = CLEAN[name]
    # One of each as it comes, and no transpose more than inputs and outputs need.
    roles = operator_roles(target.format)
    clean = Graph(target.format, dict.fromkeys(kinds, 1), 1, 1, roles)
    assert lint(clean, target, scheme) == []


def test_the_rules_of_one_target_are_not_those_of_another() -> None:
    gathers = graph("coreml", OperatorKind("gather", gives=("float32",)))
    assert lint(gathers, replace(PHONE, accelerator="cpu"), "fp32") == []
    swish = graph("litert", quantized("HARD_SWISH"))
    assert lint(swish, replace(LITERT, accelerator="gpu"), "int8") == []
    assert lint(graph("litert", conv("int8")), PI, "int8") == [], "it has asimddp"
    tells_nothing = replace(PI, facts={})
    assert lint(graph("litert", conv("int8")), tells_nothing, "int8") == []


def test_operators_are_told_together_where_the_reason_is_one() -> None:
    six, seven = (quantized("CONCATENATION", *["int8"] * inputs) for inputs in (6, 7))
    other = replace(six, takes=("const int8", *six.takes[1:]))
    found = lint(Graph("litert", {six: 2, other: 1, seven: 3}, 1, 1), LITERT, "int8")
    assert [(each.operator, each.count, each.why[:26]) for each in found] == [
        ("CONCATENATION", 3, "CONCATENATION has 6 inputs"),
        ("CONCATENATION", 3, "CONCATENATION has 7 inputs"),
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_gates_written_out_are_a_recurrent_layer_and_activations_are_not(format: str) -> None:
    roles = operator_roles(format)
    assert roles.gates is not None
    (gate, candidate), product = roles.gates, roles.products[0]

    def unrolled(gates: int, candidates: int, products: int) -> str | None:
        return graph(format, **{gate: gates, candidate: candidates, product: products}).unrolled

    assert unrolled(12, 6, 7), "a GRU of six steps"
    assert unrolled(17, 12, 7), "an LSTM of six steps, without the gate of its empty state"
    assert unrolled(6, 6, 6) is None, "gated activations have as many of each"
    assert unrolled(14, 0, 1) is None, "SiLU"
    assert unrolled(30, 20, 2) is None, "activations of convolutions"
    assert unrolled(4, 2, 3) is None, "two steps are not worth a word"


def test_a_graph_counts_what_is_in_it() -> None:
    kinds = {conv(): 2, conv("int8"): 3, OperatorKind("TRANSPOSE"): 2, OperatorKind("SQUEEZE"): 4}
    counted = Graph("litert", kinds, 1, 2, operator_roles("litert"))
    assert counted.operators == {"CONV_2D": 5, "SQUEEZE": 4, "TRANSPOSE": 2}
    assert (counted.count, counted.transposes, counted.reshapes) == (11, 2, 4)
    assert counted.unrolled is None


NET = """<?xml version="1.0"?>{doctype}
<net name="m" version="11"><layers>
<layer id="0" name="x" type="Parameter"><output><port id="0" precision="FP32"/></output></layer>
<layer id="1" name="w" type="Const"><output><port id="0" precision="FP16"/></output></layer>
<layer id="2" name="c" type="Convert"><input><port id="0" precision="FP16"/></input>
<output><port id="1" precision="FP32"/></output></layer>
<layer id="3" name="l" type="Loop"><input><port id="0" precision="FP32"/></input>
<body><layers><layer id="0" name="t" type="Tanh"/><layer id="1" name="r" type="Result"/></layers>
</body></layer>
<layer id="4" name="y" type="Result"><input><port id="0" precision="FP32"/></input></layer>
</layers><edges><edge from-layer="1" from-port="0" to-layer="2" to-port="0"/></edges></net>
"""


def test_an_openvino_file_is_read_with_its_inner_graphs(tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    path.write_text(NET.format(doctype=""))
    found = read_graph(path, "openvino")
    assert found.operators == {"Convert": 1, "Loop": 1, "Tanh": 1}
    assert found.kinds[OperatorKind("Convert", ("const float16",), ("float32",))] == 1
    assert (found.inputs, found.outputs) == (1, 1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (NET.format(doctype='<!DOCTYPE net [<!ENTITY a "b">]>'), "declares a document type"),
        ("<html/>", "its root is html"),
        ("<net", "unclosed token"),
    ],
)
def test_a_file_that_is_not_openvino_is_told(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"model.xml is no OpenVINO file: .*{why}"):
        read_graph(path, "openvino")


def test_a_format_that_is_not_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="read from onnx, openvino, litert, coreml or ncnn files"):
        read_graph(tmp_path / "model", "x")
