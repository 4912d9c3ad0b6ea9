"""What of a saved file its target will not run fast, or not where it should, told before it runs.

The rules are tables of what a runtime takes. Each was read in the runtime's own source, or is what
its maintainers answered, or was measured; what is only hearsay is not here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Literal

from edgekd.artifacts.graph import CONST, Graph, OperatorKind
from edgekd.artifacts.operators import GATES, TRANSPOSES
from edgekd.artifacts.target import Target
from edgekd.errors import listed


@dataclass(frozen=True)
class LintFinding:
    """One thing about a file that makes it slower on its target than its operators need be.

    Attributes:
        kind: "falls-back" to a slower place than the rest runs in, "unrolled", "refused" by the
            accelerator as a whole, or "slow" where it is.
        operator: the type of the operators, or several types.
        count: how many operators are meant.
        why: a sentence.
        source: where that is written, or how it was measured.
        fix: what can be done, or that nothing need be.
    """

    kind: Literal["falls-back", "unrolled", "refused", "slow"]
    operator: str
    count: int
    why: str
    source: str
    fix: str


def lint(graph: Graph, target: Target, scheme: str) -> list[LintFinding]:
    """What in `graph`, saved in precision `scheme`, will not run well on `target`."""
    found = [*_unrolled(graph), *_transposes(graph)]
    if target.accelerator == "cpu":
        found += [*_xnnpack(graph), *_not_int8(graph, scheme)]
        found += [*_half(graph, target, scheme), *_no_dot_product(graph, target, scheme)]
    if target.accelerator == "npu":
        found += _neural_engine(graph)
    return found


FLOAT = ("float32",)
BOTH = ("float32", "int8", "uint8")
WHOLE = ("int8", "uint8")


@dataclass(frozen=True)
class Taken:
    """What XNNPACK takes of one operator type.

    Attributes:
        types: element types of the data it reads and writes.
        data: which inputs are data; None is all of them.
        constant: which inputs must be in the file.
        most: inputs at most.
        ratio: for quantized data, what a step of an input by one of the output must be: at least
            the first, less than the second; of "MUL", the product of both inputs' steps.
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
"""Source: VisitNode and what it calls, and LiteRT 2.3 asked of each. EXPAND_DIMS is there too, and
returns an error at once; STRIDED_SLICE is taken with steps of one, which are written as SLICE."""

DELEGATE = "https://github.com/google-ai-edge/LiteRT tflite/delegates/xnnpack/xnnpack_delegate.cc"

LITERT_FIXES = {
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


def _refusal(kind: OperatorKind) -> str | None:
    """Why XNNPACK does not take operators of this kind, or None where it does."""
    taken = XNNPACK.get(kind.operator)
    if taken is None:
        return "is not among the operators XNNPACK takes"
    if taken.most is not None and len(kind.takes) > taken.most:
        return f"has {len(kind.takes)} inputs, and XNNPACK takes {taken.most}"
    places = range(len(kind.takes)) if taken.data is None else taken.data
    given = [kind.takes[place].removeprefix(CONST) for place in places if place < len(kind.takes)]
    for name in (*given, *(each.removeprefix(CONST) for each in kind.gives)):
        if name not in taken.types:
            return f"is taken by XNNPACK in {listed(taken.types)}, and is in {name or 'no type'}"
    for place in taken.constant:
        name = kind.takes[place] if place < len(kind.takes) else ""
        if name and not name.startswith(CONST):
            return f"is taken by XNNPACK where its input {place} is a constant, and it is computed"
    if kind.steps and given and given[0] in WHOLE and not _fits(kind, taken):
        return "has inputs and an output of too different ranges for XNNPACK's int8 kernel"
    return None


def _fits(kind: OperatorKind, taken: Taken) -> bool:
    """Whether the quantization steps of `kind` are as near to each other as XNNPACK wants."""
    steps = [kind.steps[place] for place in taken.data or ()]
    output = kind.steps[len(kind.takes)]
    if not output:
        return True
    if kind.operator == "MUL":
        steps = [steps[0] * steps[1]]
    least, limit = taken.ratio
    return all(least <= step / output < limit for step in steps)


def _xnnpack(graph: Graph) -> Iterator[LintFinding]:
    if graph.format != "litert":
        return
    found: Counter[tuple[str, str]] = Counter()
    for kind, count in graph.kinds.items():
        reason = _refusal(kind)
        if reason is not None:
            found[kind.operator, reason] += count
    for (operator, reason), count in sorted(found.items()):
        yield LintFinding(
            "falls-back",
            operator,
            count,
            f"{operator} {reason}: it runs in LiteRT's own kernel, between two calls of XNNPACK",
            DELEGATE,
            LITERT_FIXES.get(operator, "use other operators, or leave it where it is little work"),
        )


ONNX_INT8 = {
    **dict.fromkeys(["AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Softmax",
                     "Conv", "MaxPool", "ArgMax", "ReduceMax", "ReduceMin"], 1),
    **dict.fromkeys(["Add", "Mul", "MatMul", "Gemm"], 2),
}  # fmt: skip
"""Operators that have a kernel for quantized data, and how many inputs must be quantized."""

ONNX_ANY = ("Clip", "Relu", "Concat", "Expand", "Flatten", "Gather", "GatherElements", "Identity",
            "Pad", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Tile", "Transpose",
            "Unsqueeze", "Where", "Cast", "Shape", "ConstantOfShape", "QuantizeLinear",
            "DequantizeLinear")  # fmt: skip
"""Operators that compute nothing, or, like Relu, become part of the next QuantizeLinear. Resize is
in int8 where it takes the nearest and in float32 where it interpolates, which no type tells."""

SELECTORS = (
    "https://github.com/microsoft/onnxruntime onnxruntime/core/optimizer/qdq_transformer/"
    "selectors_actions/qdq_selector_action_transformer.cc"
)


ONNX_FIXES = {
    "BatchNormalization": "put it right behind its convolution, which it then becomes part of",
    "ConvTranspose": "resize by the nearest and convolve: these have int8 kernels",
    "GRU": "expect no speed of it: int8 ran at 0.97 times the speed of fp32 (measured)",
    "HardSigmoid": "use SiLU or ReLU in place of Hardswish: both have int8 kernels",
    "LSTM": "expect no speed of it: static int8 ran as fast as fp32 (measured)",
    "ReduceMean": "nothing: there is little to compute; AvgPool2d has an int8 kernel",
}

OPENVINO_FLOAT = {
    "GRUSequence": "expect no speed of it: int8 ran at 0.97 times the speed of fp32 (measured)",
    "LSTMSequence": "expect no speed of it: int8 ran at 0.97 times the speed of fp32 (measured)",
    "MVN": "nothing: it is the layer norm, and int8 would cost accuracy",
}
"""Operators that OpenVINO's CPU plugin computes in float32 in int8 files, and what can be done."""

RUNTIME_MODEL = "measured, OpenVINO 2026.4: get_runtime_model() says f32, in all of six networks"


def _not_int8(graph: Graph, scheme: str) -> Iterator[LintFinding]:
    """Operators of an int8 file that are computed in float32, by ONNX Runtime and OpenVINO."""
    if scheme != "int8":
        return
    for operator, fix in OPENVINO_FLOAT.items() if graph.format == "openvino" else ():
        count = graph.operators.get(operator, 0)
        why = f"{operator} has no int8 kernel in OpenVINO's CPU plugin: it is computed in float32"
        if count:
            yield LintFinding("falls-back", operator, count, why, RUNTIME_MODEL, fix)
    left: Counter[str] = Counter()
    for kind, count in graph.kinds.items() if graph.format == "onnx" else ():
        if kind.operator not in ONNX_ANY and not _onnx_int8(kind):
            left[kind.operator] += count
    for operator, count in sorted(left.items()):
        if operator in ONNX_INT8:
            why = f"{operator} is not quantized in the file: ONNX Runtime computes it in float32"
            fix = "nothing: the quantizer leaves out what costs accuracy, as around attention"
        else:
            why = f"{operator} has no int8 kernel in ONNX Runtime: it is computed in float32"
            fix = ONNX_FIXES.get(operator, "use another, or leave it where it is little work")
        yield LintFinding("falls-back", operator, count, why, SELECTORS, fix)


def _onnx_int8(kind: OperatorKind) -> bool:
    """Whether ONNX Runtime computes operators of this kind on quantized data."""
    needed = ONNX_INT8.get(kind.operator)
    if needed is None:
        return False
    inside = [*kind.takes[:needed]]
    # A product without QuantizeLinear behind it gives float32 from its int8 kernel.
    if kind.operator not in ("MatMul", "Gemm", "ArgMax"):
        inside += kind.gives[:1]
    return all(name.removeprefix(CONST) in WHOLE for name in inside)


NEURAL_ENGINE = {
    "lstm": "https://github.com/apple/coremltools/issues/1780 (answer of a maintainer)",
    "gru": "https://github.com/apple/coremltools/issues/1780 (answer of a maintainer)",
    "rnn": "https://github.com/apple/coremltools/issues/1780 (answer of a maintainer)",
    "while_loop": "https://github.com/apple/coremltools/issues/2208 (seen by its author)",
    "gather": "https://huggingface.co/SingularityUS/atc-whisperkit small/TextDecoder"
    ".mlcomputeplan.json (MLComputePlan: only the CPU)",
    "gather_along_axis": "https://github.com/roboflow/rf-detr/pull/1495 (MLComputePlan, M3 Pro)",
    "topk": "https://github.com/roboflow/rf-detr/pull/1495 (MLComputePlan, M3 Pro)",
}
"""Operators the Neural Engine leaves to the CPU, and who says so: Apple documents none of it."""

NEURAL_ENGINE_FIXES = {
    "gather": "nothing where it is an embedding: it copies a few rows at the start",
    "gather_along_axis": "put it at the end, or compute it in the app",
    "topk": "put it at the end, or compute it in the app",
}


def _neural_engine(graph: Graph) -> Iterator[LintFinding]:
    if graph.format != "coreml":
        return
    single = [
        (kind, count)
        for kind, count in graph.kinds.items()
        if kind.operator != "cast" and "float32" in kind.gives
    ]
    if single:
        names = Counter(kind.operator for kind, _ in single)
        yield LintFinding(
            "refused",
            ", ".join(sorted(names)),
            sum(count for _, count in single),
            "The Neural Engine computes in float16, and these operators are in float32: they run "
            "on the CPU or the GPU",
            "https://github.com/hollance/neural-engine docs/16-bit.md",
            "choose fp16 or int8 for this target",
        )
    for operator, source in NEURAL_ENGINE.items():
        count = graph.operators.get(operator, 0)
        if count:
            yield LintFinding(
                "falls-back",
                operator,
                count,
                f"{operator} is not computed by the Neural Engine: it runs on the CPU, and what "
                "is around it waits for the change",
                source,
                NEURAL_ENGINE_FIXES.get(operator, "use convolutions over time in its place"),
            )


def _unrolled(graph: Graph) -> Iterator[LintFinding]:
    why = graph.unrolled
    if why is None:
        return
    measured = {
        "litert": "measured, litert-torch 0.10: a GRU of 64 steps became 2432 operators, and its "
        "file 502 KB for 159 KB of weights, in int8 876 KB",
        "openvino": "measured, OpenVINO 2026.4: a GRU written out ran 11 times slower than whole",
    }
    yield LintFinding(
        "unrolled",
        ", ".join(GATES[graph.format]),
        graph.count,
        why,
        measured.get(graph.format, "the operators in the file"),
        "take a target of format onnx or openvino, which keep nn.GRU and nn.LSTM whole, or use "
        "fewer steps",
    )


ATTENTION = {"litert": ("SOFTMAX", "BATCH_MATMUL")}
CONVOLUTIONS = {"litert": ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")}


def _transposes(graph: Graph) -> Iterator[LintFinding]:
    """Beyond the one at each input and output that turns channels first to channels last."""
    if graph.format not in CONVOLUTIONS or graph.total(ATTENTION[graph.format]):
        return
    if not graph.total(CONVOLUTIONS[graph.format]):
        return
    more = graph.transposes - graph.inputs - graph.outputs
    if more > 0:
        yield LintFinding(
            "slow",
            ", ".join(TRANSPOSES[graph.format]),
            graph.transposes,
            f"{graph.transposes} transposes and {graph.reshapes} reshapes stand between the "
            "convolutions, which want channels last",
            "measured, litert-torch 0.10: without 20 of them a network of Conv1d was 1.17 times as "
            "fast in fp32, and int8 gained 3.17 times rather than 1.76",
            "write Conv1d as Conv2d with kernels of 1 x k; do without channel shuffles",
        )


def _half(graph: Graph, target: Target, scheme: str) -> Iterator[LintFinding]:
    """Weights in float16 that are computed in float32."""
    if scheme != "fp16":
        return
    stored = {"litert": "DEQUANTIZE", "openvino": "Convert"}.get(graph.format)
    count = sum(
        count
        for kind, count in graph.kinds.items()
        if (kind.operator == stored and kind.takes[:1] == (CONST + "float16",))
        or (graph.format == "onnx" and "float16" in kind.gives)
    )
    fact = target.facts.get("fp16")
    if not count or (fact is None and graph.format != "litert"):
        return
    yield LintFinding(
        "slow",
        stored or "float16",
        count,
        f"fp16 is {fact.value}"
        if fact
        else "XNNPACK widens float16 weights to float32: the file "
        "does not ask for computing in float16",
        fact.source if fact else DELEGATE.replace("xnnpack_delegate.cc", "README.md"),
        "choose it for size; for time choose fp32 or int8",
    )


DOT_PRODUCTS = ("asimddp", "i8mm")


def _no_dot_product(graph: Graph, target: Target, scheme: str) -> Iterator[LintFinding]:
    """int8 on an Arm core without instructions for products of bytes, where the profile tells."""
    fact = target.facts.get("int8_instructions")
    if scheme != "int8" or fact is None or target.machine not in ("aarch64", "arm64"):
        return
    if set(DOT_PRODUCTS) & {str(name) for name in fact.value}:
        return
    names = {"litert": ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"),
             "onnx": ("Conv", "Gemm", "MatMul"), "openvino": ("Convolution", "GroupConvolution",
             "MatMul")}.get(graph.format, ())  # fmt: skip
    count = graph.total(names)
    if count:
        yield LintFinding(
            "slow",
            ", ".join(names),
            count,
            f"{target.name} has none of {listed(DOT_PRODUCTS)}: int8 takes more instructions than "
            "fp32 there",
            f"{fact.source}; measured, LiteRT 2.3, a depthwise network: 1.30 times the "
            "instructions of fp32 on Cortex-A72, 0.53 times on Cortex-A76, which has asimddp",
            "choose int8 for size; for time measure both",
        )
