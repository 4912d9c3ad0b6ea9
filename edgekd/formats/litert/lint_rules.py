"""What XNNPACK, the delegate of LiteRT's CPU runtime, takes of a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from edgekd.artifacts.graph import CONST, Graph, OperatorKind
from edgekd.artifacts.target import Target
from edgekd.errors import listed
from edgekd.formats.lint import LintFinding, widened_fp16, without_dot_products

FLOAT = ("float32",)
BOTH = ("float32", "int8", "uint8")
INTEGERS = ("int8", "uint8")


@dataclass(frozen=True)
class Taken:
    """What XNNPACK takes of one operator type.

    Attributes:
        types: the element types of the data it reads and writes.
        data: the indices of the inputs that are data; None: all.
        constant: the indices of the inputs that must be constants of the file.
        most: the largest number of inputs.
        ratio: for quantized data, the range of the scale of an input divided by that of the output:
            at least the first, less than the second; of "MUL", of the product of both inputs'
            scales.
    """

    types: tuple[str, ...]
    data: tuple[int, ...] | None = (0,)
    constant: tuple[int, ...] = ()
    most: int | None = None
    ratio: tuple[float, float] = (0.0, inf)


XNNPACK: dict[str, Taken] = {
    **dict.fromkeys(["ABS", "CEIL", "COS", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LOG", "NEG",
                     "RELU", "RELU6", "RELU_N1_TO_1", "ROUND", "RSQRT", "SIN", "SQRT", "SQUARE",
                     "SOFTMAX", "AVERAGE_POOL_2D"], Taken(FLOAT)),
    **dict.fromkeys(["DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "BATCH_MATMUL"],
                    Taken(FLOAT, data=(0, 1))),
    **dict.fromkeys(["ELU", "LEAKY_RELU", "LOGISTIC", "TANH", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH",
                     "MAX_POOL_2D"], Taken(BOTH)),
    **dict.fromkeys(["ADD", "SUB"], Taken(BOTH, data=(0, 1), ratio=(2.0**-10, 2.0**8))),
    **dict.fromkeys(["MEAN", "SUM", "PAD", "RESHAPE", "RESIZE_BILINEAR", "TRANSPOSE",
                     "REDUCE_MAX", "REDUCE_MIN"],
                    Taken(BOTH, constant=(1,))),
    **dict.fromkeys(["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"],
                    Taken(BOTH, constant=(1, 2))),
    "MUL": Taken(BOTH, data=(0, 1), ratio=(2.0**-16, 2.0**8)),
    "PRELU": Taken(FLOAT, constant=(1,)),
    "CONCATENATION": Taken(BOTH, data=None, most=5),
    "DEQUANTIZE": Taken((*BOTH, "float16")),
    "QUANTIZE": Taken(BOTH, ratio=(2.0**-8, 2.0**7)),
    "SLICE": Taken(BOTH, constant=(1, 2)),
    "SPLIT": Taken(BOTH, data=(1,), constant=(0,)),
    "TRANSPOSE_CONV": Taken(BOTH, data=(2,), constant=(0, 1, 3)),
}  # fmt: skip
"""Source: VisitNode and what it calls, and LiteRT 2.3 run on each. EXPAND_DIMS is there too, and
returns an error at once; STRIDED_SLICE is taken with strides of one, which are written as SLICE."""

DELEGATE = "https://github.com/google-ai-edge/LiteRT tflite/delegates/xnnpack/xnnpack_delegate.cc"

FIXES = {
    "AVERAGE_POOL_2D": "pool by maximum, or by a convolution with a stride: both are taken in int8",
    "BATCH_MATMUL": "leave it in float, as edgekd does where it finds attention",
    "CONCATENATION": "concatenate at most five at a time",
    "EMBEDDING_LOOKUP": "nothing: it copies a few rows",
    "FULLY_CONNECTED": "give attention more than one head: it is then a BATCH_MATMUL, taken in "
    "float",
    "HARD_SWISH": "use SiLU or ReLU: both are taken in int8",
    "PADV2": "give MaxPool2d no padding: it pads with minus infinity, by this operator",
    "RELU": "put it right after its convolution, where it becomes part of it",
    "RESHAPE": "nothing: it moves no data",
    "SOFTMAX": "leave it in float, as edgekd does where it finds attention",
}


CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
ATTENTION = ("SOFTMAX", "BATCH_MATMUL")
INT8 = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def lint(graph: Graph, target: Target, scheme: str) -> Iterator[LintFinding]:
    """Transposes on any target; on a CPU, operators outside XNNPACK and schemes that do not pay."""
    yield from _transposes(graph)
    if target.accelerator != "cpu":
        return
    yield from _xnnpack(graph)
    if scheme == "fp16":
        yield from _widened(graph, target)
    if scheme == "int8":
        yield from without_dot_products(graph, target, INT8)


def _transposes(graph: Graph) -> Iterator[LintFinding]:
    """More than the one at each input and output that turns channels first to channels last."""
    if graph.total(ATTENTION) or not graph.total(CONVOLUTIONS):
        return
    if graph.transposes > graph.inputs + graph.outputs:
        yield LintFinding(
            "slow",
            ", ".join(graph.roles.transposes),
            graph.transposes,
            f"{graph.transposes} transposes and {graph.reshapes} reshapes stand between the "
            "convolutions, which want channels last",
            "measured, litert-torch 0.10: without 20 of them a network of Conv1d was 1.17 times as "
            "fast in fp32, and int8 gained 3.17 times rather than 1.76",
            "write Conv1d as Conv2d with kernels of 1 x k; do without channel shuffles",
        )


def _refusal(kind: OperatorKind) -> str | None:
    """Why XNNPACK does not take operators of this kind, or None."""
    taken = XNNPACK.get(kind.operator)
    if taken is None:
        return "is not among the operators XNNPACK takes"
    if taken.most is not None and len(kind.takes) > taken.most:
        return f"has {len(kind.takes)} inputs, and XNNPACK takes {taken.most}"
    indices = range(len(kind.takes)) if taken.data is None else taken.data
    data = [kind.takes[index].removeprefix(CONST) for index in indices if index < len(kind.takes)]
    for name in (*data, *(output.removeprefix(CONST) for output in kind.gives)):
        if name not in taken.types:
            return f"is taken by XNNPACK in {listed(taken.types)}, and is in {name or 'no type'}"
    for index in taken.constant:
        name = kind.takes[index] if index < len(kind.takes) else ""
        if name and not name.startswith(CONST):
            return f"is taken by XNNPACK where its input {index} is a constant, and it is computed"
    if kind.steps and data and data[0] in INTEGERS and not _fits(kind, taken):
        return "has inputs and an output of too different ranges for XNNPACK's int8 kernel"
    return None


def _fits(kind: OperatorKind, taken: Taken) -> bool:
    """Whether the scales of `kind` are as near to each other as XNNPACK wants."""
    steps = [kind.steps[index] for index in taken.data or ()]
    output = kind.steps[len(kind.takes)]
    if not output:
        return True
    if kind.operator == "MUL":
        steps = [steps[0] * steps[1]]
    least, limit = taken.ratio
    return all(least <= step / output < limit for step in steps)


def _xnnpack(graph: Graph) -> Iterator[LintFinding]:
    refused: Counter[tuple[str, str]] = Counter()
    for kind, count in graph.kinds.items():
        reason = _refusal(kind)
        if reason is not None:
            refused[kind.operator, reason] += count
    for (operator, reason), count in sorted(refused.items()):
        yield LintFinding(
            "falls-back",
            operator,
            count,
            f"{operator} {reason}: it runs in LiteRT's own kernel, between two calls of XNNPACK",
            DELEGATE,
            FIXES.get(operator, "use other operators, or leave it where it is little work"),
        )


def _widened(graph: Graph, target: Target) -> Iterator[LintFinding]:
    count = sum(
        count
        for kind, count in graph.kinds.items()
        if kind.operator == "DEQUANTIZE" and kind.takes[:1] == (CONST + "float16",)
    )
    why = (
        "XNNPACK widens float16 weights to float32: the file does not ask for computing in float16"
    )
    source = DELEGATE.replace("xnnpack_delegate.cc", "README.md")
    yield from widened_fp16(count, target, operator="DEQUANTIZE", otherwise=(why, source))
