"""LiteRT files that take and give whole numbers.

ai-edge-quantizer writes int8 inputs and outputs itself. uint8, which its kernels do not compute in,
becomes int8 by a QUANTIZE behind each input, and before each output int8 becomes uint8: the
numbers are 128 apart and stand for the same values, as in the files of TensorFlow's converter.
Source: https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.errors import listed
from edgekd.formats._integer_io import retyped
from edgekd.integers import Step
from edgekd.need import need

EXTRA = "litert"


def quantization(path: Path) -> dict[str, Step]:
    """By name, what the whole numbers of inputs and outputs of the file at `path` stand for."""
    found = {}
    for name, entry in _details(path).items():
        scale, zero_point = entry["quantization"]
        if scale:
            found[name] = Step(float(scale), int(zero_point), entry["dtype"].__name__)
    return found


def check_whole(path: Path) -> None:
    """Raises a RuntimeError where an input or output of the file is still in float32."""
    left = [name for name, entry in _details(path).items() if entry["dtype"].__name__ == "float32"]
    if left:
        raise RuntimeError(f"ai-edge-quantizer left {listed(left)} in float32")


def _details(path: Path) -> Mapping[str, Any]:
    interpreter = need("ai_edge_litert.interpreter", extra=EXTRA).Interpreter(model_path=str(path))
    runner = interpreter.get_signature_runner()
    return {**runner.get_input_details(), **runner.get_output_details()}


def to_uint8(path: Path) -> None:
    """Gives the file at `path` inputs and outputs of uint8 in place of those of int8."""
    schema = need("ai_edge_litert.schema_py_generated", extra=EXTRA)
    files = need("ai_edge_litert.tools.flatbuffer_utils", extra=EXTRA)
    model = files.read_model(str(path))
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    code = _code(schema, model)
    for places, entries, gives in (
        (graph.inputs, signature.inputs, False),
        (graph.outputs, signature.outputs, True),
    ):
        for number, place in enumerate(list(places)):
            tensor = graph.tensors[place]
            if tensor.type != schema.TensorType.INT8 or tensor.quantization is None:
                continue
            edge = len(graph.tensors)
            graph.tensors.append(_unsigned(schema, tensor))
            operator = schema.OperatorT()
            operator.opcodeIndex = code
            operator.builtinOptionsType = schema.BuiltinOptions.QuantizeOptions
            operator.builtinOptions = schema.QuantizeOptionsT()
            ends = (place, edge) if gives else (edge, place)
            operator.inputs, operator.outputs = [ends[0]], [ends[1]]
            graph.operators.insert(len(graph.operators) if gives else 0, operator)
            places[number] = edge
            for entry in entries:
                if entry.tensorIndex == place:
                    entry.tensorIndex = edge
    files.write_model(model, str(path))


def _code(schema: Any, model: Any) -> int:
    """Where among the types of operators QUANTIZE is; it is added where it is not."""
    quantize = schema.BuiltinOperator.QUANTIZE
    for number, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == quantize:
            code.version = max(code.version, 2)
            return number
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = quantize
    code.version = 2  # The first that takes whole numbers.
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _unsigned(schema: Any, tensor: Any) -> Any:
    made = copy.deepcopy(tensor)
    made.name = tensor.name + b"_uint8"
    made.type, made.buffer = schema.TensorType.UINT8, 0
    told = tensor.quantization
    step = Step(float(told.scale[0]), int(told.zeroPoint[0]), "int8")
    made.quantization.zeroPoint = [retyped(step, "uint8").zero_point]
    return made
