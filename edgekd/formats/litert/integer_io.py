"""LiteRT files that take and give whole numbers.

ai-edge-quantizer writes int8 inputs and outputs itself. uint8, which LiteRT's kernels do not
compute in, becomes int8 by a QUANTIZE behind each input, and before each output int8 becomes uint8:
the numbers are 128 apart and stand for the same values, as in the files of TensorFlow's converter.
Source: https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.artifacts.quantization_params import QuantizationParams
from edgekd.formats.integer_io import retyped, step_of
from edgekd.system.packages import need

EXTRA = "litert"


def quantization(path: Path) -> dict[str, QuantizationParams]:
    """By name, what the whole numbers of inputs and outputs of the file at `path` stand for."""
    interpreter = need("ai_edge_litert.interpreter", extra=EXTRA).Interpreter(model_path=str(path))
    runner = interpreter.get_signature_runner()
    found = {}
    for name, entry in {**runner.get_input_details(), **runner.get_output_details()}.items():
        scale, zero_point = entry["quantization"]
        if scale:
            found[name] = QuantizationParams(float(scale), int(zero_point), entry["dtype"].__name__)
    return found


def finish(path: Path, ranges: Mapping[str, tuple[float, float]], io: str) -> None:
    """Gives the file at `path` inputs and outputs of `io` in place of those of int8 and float32.

    Args:
        ranges: by tensor, of those that are in float32 still: what kept the last layer in float
            keeps its output so.
    """
    schema = need("ai_edge_litert.schema_py_generated", extra=EXTRA)
    files = need("ai_edge_litert.tools.flatbuffer_utils", extra=EXTRA)
    model = files.read_model(str(path))
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    for places, entries, gives in (
        (graph.inputs, signature.inputs, False),
        (graph.outputs, signature.outputs, True),
    ):
        for number, place in enumerate(list(places)):
            tensor = graph.tensors[place]
            made = _beside(schema, tensor, ranges, io)
            if made is None:
                continue
            edge = len(graph.tensors)
            graph.tensors.append(made)
            widens = tensor.type == schema.TensorType.FLOAT32 and not gives
            operator = _operator(schema, model, "Dequantize" if widens else "Quantize")
            ends = (place, edge) if gives else (edge, place)
            operator.inputs, operator.outputs = [ends[0]], [ends[1]]
            graph.operators.insert(len(graph.operators) if gives else 0, operator)
            places[number] = edge
            for entry in entries:
                if entry.tensorIndex == place:
                    entry.tensorIndex = edge
    files.write_model(model, str(path))


def _operator(schema: Any, model: Any, kind: str) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex = _code(schema, model, getattr(schema.BuiltinOperator, kind.upper()))
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, f"{kind}Options")
    operator.builtinOptions = getattr(schema, f"{kind}OptionsT")()
    return operator


def _code(schema: Any, model: Any, builtin: int) -> int:
    """Where among the types of operators `builtin` is; it is added where it is not."""
    version = 2  # The first of both that takes int8.
    for number, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
            code.version = max(code.version, version)
            return number
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _beside(
    schema: Any, tensor: Any, ranges: Mapping[str, tuple[float, float]], io: str
) -> Any | None:
    """What the file takes or gives in place of `tensor`, or None where that is right as it is."""
    types, told = schema.TensorType, tensor.quantization
    if tensor.type == types.FLOAT32:
        step = step_of(*ranges[tensor.name.decode()], io)
    elif tensor.type == types.INT8 and told is not None and told.scale is not None:
        step = retyped(QuantizationParams(float(told.scale[0]), int(told.zeroPoint[0]), "int8"), io)
    else:
        return None
    if tensor.type == getattr(types, io.upper()):
        return None
    made = copy.deepcopy(tensor)
    made.name, made.buffer = tensor.name + f"_{io}".encode(), 0
    made.type = getattr(types, io.upper())
    made.quantization = schema.QuantizationParametersT()
    made.quantization.scale, made.quantization.zeroPoint = [step.scale], [step.zero_point]
    return made
