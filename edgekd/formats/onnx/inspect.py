"""Reads the graph, the weights and the intermediate tensors of an ONNX file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from edgekd.artifacts.graph import CONST, Graph, OperatorKind, malformed
from edgekd.artifacts.operators import OperatorRoles
from edgekd.artifacts.weights import Constant, NamedTensors, float_tensors, reader_of
from edgekd.system.packages import need

OPERATORS = OperatorRoles(
    transposes=("Transpose",),
    reshapes=("Reshape", "Flatten", "Squeeze", "Unsqueeze"),
    gates=("Sigmoid", "Tanh"),
    products=("MatMul", "Gemm"),
    weighted=frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "Gather"}),
    after_weights=frozenset({"DequantizeLinear", "Cast", "Transpose", "Reshape"}),
)


def run_tensors(path: Path, inputs: Mapping[str, Tensor]) -> NamedTensors:
    """Runs the file in ONNX Runtime without fusions, which would leave tensors out."""
    library = need("onnx", extra="onnx")
    runtime = need("onnxruntime", extra="onnx")
    model = library.load(path)
    known = {output.name for output in model.graph.output}
    inner = [name for node in model.graph.node for name in node.output if name]
    for name in inner:
        if name not in known:
            model.graph.output.append(library.ValueInfoProto(name=name))
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3  # It would warn of every unused initializer.
    session = runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
    found = dict(zip(names, values, strict=True))
    # A quantized tensor is dequantized right behind it: that one is kept.
    return float_tensors({name: found[name] for name in inner if name in found})


def quantized_tensors(path: Path) -> dict[str, str]:
    """The tensors in front of a QuantizeLinear, each with the output of the DequantizeLinear."""
    nodes = need("onnx", extra="onnx").load(path).graph.node
    codes = {n.input[0]: n.output[0] for n in nodes if n.op_type == "QuantizeLinear"}
    reals = {n.input[0]: n.output[0] for n in nodes if n.op_type == "DequantizeLinear"}
    return {name: reals[code] for name, code in codes.items() if code in reals}


_DTYPES = {"float": "float32", "double": "float64"}


def read_graph(path: Path) -> Graph:
    """The operators in the file at `path`, with the bodies of its functions in their place."""
    onnx = need("onnx", extra="onnx")
    decode_error: type[Exception] = need("google.protobuf.message", extra="onnx").DecodeError
    try:
        model = onnx.load(path, load_external_data=False)
    except decode_error as error:
        raise malformed(path, "ONNX", error) from error
    if not model.graph.output:
        raise malformed(path, "ONNX", "it has no outputs")
    bodies = {(each.domain, each.name): each.node for each in model.functions}
    names = {
        number: _DTYPES.get(name.lower(), name.lower())
        for name, number in onnx.TensorProto.DataType.items()
    }
    found = Counter(_kinds(model.graph.node, _types(model.graph, names), names, bodies))
    weights = {entry.name for entry in model.graph.initializer}
    inputs = sum(entry.name not in weights for entry in model.graph.input)
    return Graph("onnx", found, inputs, len(model.graph.output), OPERATORS)


def _kinds(
    nodes: Any, known: Mapping[str, str], names: Mapping[int, str], bodies: Mapping[Any, Any]
) -> Iterator[OperatorKind]:
    before, after = _quantized_types(nodes, known)
    inside = {**known, **before}, {**known, **after}
    for node in nodes:
        body = bodies.get((node.domain, node.op_type))
        if body is not None:
            yield from _kinds(body, {}, names, bodies)
            continue
        if node.op_type != "Constant":
            takes, gives = (known, known) if node.op_type in _QDQ else inside
            yield OperatorKind(
                node.op_type,
                tuple(takes.get(name, "") for name in node.input),
                tuple(gives.get(name, "") for name in node.output),
            )
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _kinds(inner.node, {**known, **_types(inner, names)}, names, bodies)


_QDQ = ("QuantizeLinear", "DequantizeLinear")


def _quantized_types(nodes: Any, known: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The types in front of each DequantizeLinear, by its output, and behind each QuantizeLinear,
    by its input, where nothing else reads that."""
    used = Counter(name for node in nodes for name in node.input)
    stored, before, after = dict(known), {}, {}
    for node in nodes:
        if node.op_type == "QuantizeLinear":
            zero_point = node.input[2] if len(node.input) > 2 else ""
            stored[node.output[0]] = known.get(zero_point, "uint8").removeprefix(CONST)
            if used[node.input[0]] == 1:
                after[node.input[0]] = stored[node.output[0]]
        elif node.op_type == "DequantizeLinear":
            before[node.output[0]] = stored.get(node.input[0], "")
    return before, after


def _types(graph: Any, names: Mapping[int, str]) -> dict[str, str]:
    """The element types of the values of `graph` that the file states."""
    known = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        known[value.name] = names.get(value.type.tensor_type.elem_type, "")
    for entry in graph.initializer:
        known[entry.name] = CONST + names.get(entry.data_type, "")
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            known[node.output[0]] = CONST + names.get(attribute.t.data_type, "")
    return {name: kind for name, kind in known.items() if kind != "undefined"}


_READS_AS = {
    "DynamicQuantizeLSTM": "LSTM",
    "MatMulInteger": "MatMul",
    "DynamicQuantizeMatMul": "MatMul",
    "MatMulNBits": "MatMul",
    "ConvInteger": "Conv",
}
"""Operators of quantized files, and the operators that they replace."""


def read_weights(path: Path) -> Iterator[Constant]:
    """The initializers and constants in the file at `path`."""
    onnx = need("onnx", extra="onnx")
    model = onnx.load(path, load_external_data=False)
    names = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        readers: dict[str, list[tuple[str, Sequence[str]]]] = {}
        tensors = [(each.name, each) for each in getattr(graph, "initializer", ())]
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, []).append((node.op_type, list(node.output)))
            for attribute in node.attribute if node.op_type == "Constant" else ():
                tensors.append((node.output[0], attribute.t))
        for name, tensor in tensors:
            operator = reader_of(name, readers, OPERATORS.after_weights)
            shape, kind = tuple(tensor.dims), names[tensor.data_type]
            if operator == "MatMulNBits":
                if kind != "uint8" or len(shape) < 3:
                    continue  # The scales and zero points of its blocks.
                kind, shape = "uint4", (*shape[:-1], 2 * shape[-1])  # Two values a byte.
            yield Constant(_READS_AS.get(operator, operator), kind, shape)
