"""Integer inputs and outputs of LiteRT files.

ai-edge-quantizer writes int8 inputs and outputs itself. LiteRT's kernels do not compute in uint8: a
QUANTIZE behind each uint8 input makes int8 of it, and one before each output makes uint8 of int8.
The codes are 128 apart and stand for the same values, as in the files of TensorFlow's converter.
Source: https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.artifacts.quantization_params import QuantizationParams
from edgekd.formats.integer_io import params_over, retyped
from edgekd.system.packages import need

EXTRA = "litert"


def quantization(path: Path) -> dict[str, QuantizationParams]:
    """The scale and zero point of the quantized inputs and outputs of the file at `path`."""
    interpreter = need("ai_edge_litert.interpreter", extra=EXTRA).Interpreter(model_path=str(path))
    runner = interpreter.get_signature_runner()
    found = {}
    for name, entry in {**runner.get_input_details(), **runner.get_output_details()}.items():
        scale, zero_point = entry["quantization"]
        if scale:
            found[name] = QuantizationParams(float(scale), int(zero_point), entry["dtype"].__name__)
    return found


def finish(path: Path, ranges: Mapping[str, tuple[float, float]], io: str) -> None:
    """Gives the file at `path` inputs and outputs of type `io` in place of int8 and float32.

    Args:
        ranges: by tensor, for those that are still float32: an excluded last layer leaves its
            output so.
    """
    schema = need("ai_edge_litert.schema_py_generated", extra=EXTRA)
    files = need("ai_edge_litert.tools.flatbuffer_utils", extra=EXTRA)
    model = files.read_model(str(path))
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    for indices, entries, gives in (
        (graph.inputs, signature.inputs, False),
        (graph.outputs, signature.outputs, True),
    ):
        for number, index in enumerate(list(indices)):
            tensor = graph.tensors[index]
            replacement = _replacement(schema, tensor, ranges, io)
            if replacement is None:
                continue
            edge = len(graph.tensors)
            graph.tensors.append(replacement)
            widens = tensor.type == schema.TensorType.FLOAT32 and not gives
            operator = _operator(schema, model, "Dequantize" if widens else "Quantize")
            source, sink = (index, edge) if gives else (edge, index)
            operator.inputs, operator.outputs = [source], [sink]
            graph.operators.insert(len(graph.operators) if gives else 0, operator)
            indices[number] = edge
            for entry in entries:
                if entry.tensorIndex == index:
                    entry.tensorIndex = edge
    files.write_model(model, str(path))


def _operator(schema: Any, model: Any, kind: str) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex = _code(schema, model, getattr(schema.BuiltinOperator, kind.upper()))
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, f"{kind}Options")
    operator.builtinOptions = getattr(schema, f"{kind}OptionsT")()
    return operator


def _code(schema: Any, model: Any, builtin: int) -> int:
    """The index of the operator type `builtin` in the model, which it is added to if absent."""
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


def _replacement(
    schema: Any, tensor: Any, ranges: Mapping[str, tuple[float, float]], io: str
) -> Any | None:
    """The input or output of type `io` that replaces `tensor`, or None where it has that type or
    another that stays."""
    types, own = schema.TensorType, tensor.quantization
    if tensor.type == types.FLOAT32:
        step = params_over(*ranges[tensor.name.decode()], io)
    elif tensor.type == types.INT8 and own is not None and own.scale is not None:
        step = retyped(QuantizationParams(float(own.scale[0]), int(own.zeroPoint[0]), "int8"), io)
    else:
        return None
    if tensor.type == getattr(types, io.upper()):
        return None
    replacement = copy.deepcopy(tensor)
    replacement.name, replacement.buffer = tensor.name + f"_{io}".encode(), 0
    replacement.type = getattr(types, io.upper())
    replacement.quantization = schema.QuantizationParametersT()
    replacement.quantization.scale = [step.scale]
    replacement.quantization.zeroPoint = [step.zero_point]
    return replacement
