"""Reads the graph, the weights and the intermediate tensors of a LiteRT file."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from edgekd.artifacts.graph import CONST, Graph, OperatorKind, malformed
from edgekd.artifacts.operators import OperatorRoles
from edgekd.artifacts.weights import Constant, NamedTensors, float_tensors, reader_of
from edgekd.system.packages import need

OPERATORS = OperatorRoles(
    transposes=("TRANSPOSE",),
    reshapes=("RESHAPE", "SQUEEZE", "EXPAND_DIMS"),
    gates=("LOGISTIC", "TANH"),
    products=("FULLY_CONNECTED", "BATCH_MATMUL"),
    weighted=frozenset(
        {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"}
        | {"GATHER", "EMBEDDING_LOOKUP", "UNIDIRECTIONAL_SEQUENCE_LSTM"}
    ),
    after_weights=frozenset({"DEQUANTIZE", "DENSIFY", "TRANSPOSE", "RESHAPE"}),
    unrolled_source="measured, litert-torch 0.10: a GRU of 64 steps became 2432 operators, and its "
    "file 502 KB for 159 KB of weights, in int8 876 KB",
)


def run_tensors(path: Path, inputs: Mapping[str, Tensor]) -> NamedTensors:
    """Runs the file in LiteRT's own kernels: XNNPACK keeps no inner tensor."""
    library = need("ai_edge_litert.interpreter", extra="litert")
    interpreter = library.Interpreter(
        model_path=str(path),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=library.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    indices = {name: entry["index"] for name, entry in runner.get_input_details().items()}
    del runner
    for name, tensor in inputs.items():
        array = tensor.numpy()
        details = interpreter.get_input_details()
        dtype = next(entry["dtype"] for entry in details if entry["index"] == indices[name])
        interpreter.set_tensor(indices[name], array.astype(dtype))
    interpreter.invoke()
    tensors = {entry["index"]: entry for entry in interpreter.get_tensor_details()}
    values: dict[str, Any] = {}
    for operator in interpreter._get_ops_details():
        for index in operator["outputs"]:
            entry = tensors[int(index)]
            value = interpreter.get_tensor(int(index))
            scales = entry["quantization_parameters"]["scales"]
            if len(scales) == 1 and value.dtype.kind in "iu":
                zero = entry["quantization_parameters"]["zero_points"][0]
                value = (value.astype(np.float32) - zero) * scales[0]
            values[entry["name"]] = value
    return float_tensors(values)


def read_graph(path: Path) -> Graph:
    """The operators in the file at `path`.

    Source: schema.fbs of LiteRT, tflite/converter/schema/schema.fbs.
    """
    schema = need("ai_edge_litert.schema_py_generated", extra="litert")
    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise malformed(path, "LiteRT", "its identifier is not TFL3")
    try:
        model = schema.Model.GetRootAs(content, 0)
        codes = _codes(schema, model)
        types = {number: name.lower() for name, number in vars(schema.TensorType).items()
                 if name.isupper()}  # fmt: skip
        found: Counter[OperatorKind] = Counter()
        graphs = [model.Subgraphs(number) for number in range(model.SubgraphsLength())]
        for graph in graphs:
            found.update(_kinds(model, graph, codes, types))
        main = graphs[0]
        return Graph("litert", found, main.InputsLength(), main.OutputsLength(), OPERATORS)
    except (struct.error, IndexError, TypeError, KeyError, ValueError) as error:
        raise malformed(path, "LiteRT", repr(error)) from error


def _codes(schema: Any, model: Any) -> list[str]:
    """The names of the operator types that `model` uses, by their index in it."""
    builtin = {n: name for name, n in vars(schema.BuiltinOperator).items() if name.isupper()}
    names = []
    for number in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(number)
        # The older field is a byte wide; a file sets one of the two, and the larger value counts.
        name = builtin[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        own = code.CustomCode()
        names.append(own.decode() if name == "CUSTOM" and own else name)
    return names


def _kinds(
    model: Any, graph: Any, codes: list[str], types: Mapping[int, str]
) -> Iterator[OperatorKind]:
    names, steps = [], []
    for number in range(graph.TensorsLength()):
        tensor = graph.Tensors(number)
        range_ = tensor.Quantization()
        per_tensor = range_ is not None and range_.ScaleLength() == 1
        steps.append(float(range_.Scale(0)) if per_tensor else 0.0)
        buffer = model.Buffers(tensor.Buffer())
        constant = buffer.DataLength() > 0 or buffer.Offset() > 1
        names.append((CONST if constant else "") + types[tensor.Type()])
    for number in range(graph.OperatorsLength()):
        operator = graph.Operators(number)
        inputs = [operator.Inputs(index) for index in range(operator.InputsLength())]
        outputs = [operator.Outputs(index) for index in range(operator.OutputsLength())]
        takes = tuple(names[index] if index >= 0 else "" for index in inputs)
        name = codes[operator.OpcodeIndex()]
        own = tuple(steps[index] if index >= 0 else 0.0 for index in (*inputs, *outputs))
        gives = tuple(names[index] for index in outputs)
        yield OperatorKind(name, takes, gives, own if any(own) else ())
        if name in ("DEQUANTIZE", "DENSIFY") and takes[0].startswith(CONST):
            # Weights stored in another form: the output is as constant as the input.
            names[outputs[0]] = CONST + names[outputs[0]]


def read_weights(path: Path) -> Iterator[Constant]:
    """The constants in the file at `path`."""
    schema = need("ai_edge_litert.schema_py_generated", extra="litert")
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    builtin = {n: name for name, n in vars(schema.BuiltinOperator).items() if name.isupper()}
    types = {n: name.lower() for name, n in vars(schema.TensorType).items() if name.isupper()}
    codes = [
        builtin[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes
    ]
    for graph in model.subgraphs:
        readers: dict[str, list[tuple[str, Sequence[str]]]] = {}
        for operator in graph.operators:
            gives = [str(index) for index in operator.outputs]
            for index in operator.inputs:
                readers.setdefault(str(index), []).append((codes[operator.opcodeIndex], gives))
        for index, tensor in enumerate(graph.tensors):
            buffer = model.buffers[tensor.buffer]
            data = buffer.data
            if (data is None or not len(data)) and buffer.offset <= 1:
                continue
            shape = () if tensor.shape is None else tuple(int(size) for size in tensor.shape)
            operator = reader_of(str(index), readers, OPERATORS.after_weights)
            yield Constant(operator, types[tensor.type], shape)
