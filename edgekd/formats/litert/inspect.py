"""Reads the graph, the weights and the intermediate tensors of a LiteRT file."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from edgekd.artifacts.graph import CONST, Graph, OperatorKind, _broken
from edgekd.artifacts.weights import Constant, Found, _floats, _reader
from edgekd.system.packages import need


def run_tensors(path: Path, inputs: Mapping[str, Tensor]) -> Found:
    """By LiteRT's own kernels: XNNPACK keeps no inner tensor."""
    library = need("ai_edge_litert.interpreter", extra="litert")
    interpreter = library.Interpreter(
        model_path=str(path),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=library.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    places = {name: entry["index"] for name, entry in runner.get_input_details().items()}
    del runner
    for name, tensor in inputs.items():
        array = tensor.numpy()
        wanted = interpreter.get_input_details()
        dtype = next(entry["dtype"] for entry in wanted if entry["index"] == places[name])
        interpreter.set_tensor(places[name], array.astype(dtype))
    interpreter.invoke()
    details = {entry["index"]: entry for entry in interpreter.get_tensor_details()}
    found: dict[str, Any] = {}
    for operator in interpreter._get_ops_details():
        for index in operator["outputs"]:
            entry = details[int(index)]
            value = interpreter.get_tensor(int(index))
            scales = entry["quantization_parameters"]["scales"]
            if len(scales) == 1 and value.dtype.kind in "iu":
                zero = entry["quantization_parameters"]["zero_points"][0]
                value = (value.astype(np.float32) - zero) * scales[0]
            found[entry["name"]] = value
    return _floats(found)


def read_graph(path: Path) -> Graph:
    """Source: schema.fbs of LiteRT, tflite/converter/schema/schema.fbs."""
    schema = need("ai_edge_litert.schema_py_generated", extra="litert")
    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise _broken(path, "LiteRT", "its identifier is not TFL3")
    try:
        model = schema.Model.GetRootAs(content, 0)
        codes = _litert_codes(schema, model)
        types = {number: name.lower() for name, number in vars(schema.TensorType).items()
                 if name.isupper()}  # fmt: skip
        found: Counter[OperatorKind] = Counter()
        graphs = [model.Subgraphs(number) for number in range(model.SubgraphsLength())]
        for graph in graphs:
            found.update(_litert_kinds(model, graph, codes, types))
        return Graph("litert", found, graphs[0].InputsLength(), graphs[0].OutputsLength())
    except (struct.error, IndexError, TypeError, KeyError, ValueError) as error:
        raise _broken(path, "LiteRT", repr(error)) from error


def _litert_codes(schema: Any, model: Any) -> list[str]:
    """The names of the operator types that `model` uses, by their index in it."""
    builtin = {n: name for name, n in vars(schema.BuiltinOperator).items() if name.isupper()}
    names = []
    for number in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(number)
        # The older field has only a byte; files have either, and the greater is the one.
        name = builtin[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        own = code.CustomCode()
        names.append(own.decode() if name == "CUSTOM" and own else name)
    return names


def _litert_kinds(
    model: Any, graph: Any, codes: list[str], types: Mapping[int, str]
) -> Iterator[OperatorKind]:
    names, steps = [], []
    for number in range(graph.TensorsLength()):
        tensor = graph.Tensors(number)
        range_ = tensor.Quantization()
        whole = range_ is not None and range_.ScaleLength() == 1
        steps.append(float(range_.Scale(0)) if whole else 0.0)
        buffer = model.Buffers(tensor.Buffer())
        constant = buffer.DataLength() > 0 or buffer.Offset() > 1
        names.append((CONST if constant else "") + types[tensor.Type()])
    for number in range(graph.OperatorsLength()):
        operator = graph.Operators(number)
        inputs = [operator.Inputs(place) for place in range(operator.InputsLength())]
        outputs = [operator.Outputs(place) for place in range(operator.OutputsLength())]
        takes = tuple(names[place] if place >= 0 else "" for place in inputs)
        name = codes[operator.OpcodeIndex()]
        own = tuple(steps[place] if place >= 0 else 0.0 for place in (*inputs, *outputs))
        gives = tuple(names[place] for place in outputs)
        yield OperatorKind(name, takes, gives, own if any(own) else ())
        if name in ("DEQUANTIZE", "DENSIFY") and takes[0].startswith(CONST):
            # Weights stored in another form: what comes out is as constant as what went in.
            names[outputs[0]] = CONST + names[outputs[0]]


def read_weights(path: Path) -> Iterator[Constant]:
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
            gives = [str(place) for place in operator.outputs]
            for place in operator.inputs:
                readers.setdefault(str(place), []).append((codes[operator.opcodeIndex], gives))
        for place, tensor in enumerate(graph.tensors):
            buffer = model.buffers[tensor.buffer]
            data = buffer.data
            if (data is None or not len(data)) and buffer.offset <= 1:
                continue
            shape = () if tensor.shape is None else tuple(int(size) for size in tensor.shape)
            yield Constant(_reader(str(place), readers), types[tensor.type], shape)
