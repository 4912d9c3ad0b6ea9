"""What ONNX Runtime computes in int8 and in float16."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from edgekd.artifacts.graph import CONST, Graph, OperatorKind
from edgekd.artifacts.target import Target
from edgekd.formats.lint import LintFinding, widened_fp16, without_dot_products

INT8 = {
    **dict.fromkeys(["AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Softmax",
                     "Conv", "MaxPool", "ArgMax", "ReduceMax", "ReduceMin"], 1),
    **dict.fromkeys(["Add", "Mul", "MatMul", "Gemm"], 2),
}  # fmt: skip
"""Operators with a kernel for quantized data, and the number of inputs that must be quantized."""

ANY = ("Clip", "Relu", "Concat", "Expand", "Flatten", "Gather", "GatherElements", "Identity",
            "Pad", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Tile", "Transpose",
            "Unsqueeze", "Where", "Cast", "Shape", "ConstantOfShape", "QuantizeLinear",
            "DequantizeLinear")  # fmt: skip
"""Operators that compute nothing, or, like Relu, are fused with the next QuantizeLinear. Resize is
in int8 for nearest and in float32 for interpolation, which no element type shows."""

SELECTORS = (
    "https://github.com/microsoft/onnxruntime onnxruntime/core/optimizer/qdq_transformer/"
    "selectors_actions/qdq_selector_action_transformer.cc"
)


FIXES = {
    "BatchNormalization": "put it right behind its convolution, which it then becomes part of",
    "ConvTranspose": "resize by the nearest and convolve: these have int8 kernels",
    "GRU": "expect no speed of it: int8 ran at 0.97 times the speed of fp32 (measured)",
    "HardSigmoid": "use SiLU or ReLU in place of Hardswish: both have int8 kernels",
    "LSTM": "expect no speed of it: static int8 ran as fast as fp32 (measured)",
    "ReduceMean": "nothing: there is little to compute; AvgPool2d has an int8 kernel",
}


def lint(graph: Graph, target: Target, scheme: str) -> Iterator[LintFinding]:
    """On a CPU, operators that an int8 file leaves in float32, and schemes that do not pay."""
    if target.accelerator != "cpu":
        return
    if scheme == "int8":
        yield from _in_float(graph)
    if scheme == "fp16":
        count = sum(count for kind, count in graph.kinds.items() if "float16" in kind.gives)
        yield from widened_fp16(count, target, operator="float16")
    if scheme == "int8":
        yield from without_dot_products(graph, target, ("Conv", "Gemm", "MatMul"))


def _in_float(graph: Graph) -> Iterator[LintFinding]:
    left: Counter[str] = Counter()
    for kind, count in graph.kinds.items():
        if kind.operator not in ANY and not _computed_in_int8(kind):
            left[kind.operator] += count
    for operator, count in sorted(left.items()):
        if operator in INT8:
            why = f"{operator} is not quantized in the file: ONNX Runtime computes it in float32"
            fix = "nothing: the quantizer leaves out what costs accuracy, as around attention"
        else:
            why = f"{operator} has no int8 kernel in ONNX Runtime: it is computed in float32"
            fix = FIXES.get(operator, "use another, or leave it where it is little work")
        yield LintFinding("falls-back", operator, count, why, SELECTORS, fix)


def _computed_in_int8(kind: OperatorKind) -> bool:
    """Whether ONNX Runtime computes operators of this kind on quantized data."""
    needed = INT8.get(kind.operator)
    if needed is None:
        return False
    types = [*kind.takes[:needed]]
    # A product without QuantizeLinear behind it gives float32 from its int8 kernel.
    if kind.operator not in ("MatMul", "Gemm", "ArgMax"):
        types += kind.gives[:1]
    return all(name.removeprefix(CONST) in ("int8", "uint8") for name in types)
