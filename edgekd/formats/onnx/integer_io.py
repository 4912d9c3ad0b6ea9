"""ONNX files that take and give whole numbers, made of those of float32 inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.artifacts.quantization_params import QuantizationParams
from edgekd.formats.integer_io import retyped, step_of
from edgekd.system.packages import need

EXTRA = "onnx"
WHOLE = ("int8", "uint8")


def retype(model: Any, ranges: Mapping[str, tuple[float, float]], io: str) -> Any:
    """The quantized `model` with inputs and outputs of `io` in place of float32.

    An input is dequantized first and an output quantized last, and with a QuantizeLinear or
    DequantizeLinear that says the same both are taken off. Where the file's is of the other type,
    it stays: what stands before it is exact.

    Args:
        ranges: of inputs and outputs in float32, by name, where the file itself quantizes neither.
    """
    weights = {each.name for each in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in weights]
    for value in inputs:
        if _dtype(value) == "float32":
            _retype_input(model, value, ranges, io)
    for value in model.graph.output:
        if _dtype(value) == "float32":
            _retype_output(model, value, ranges, io)
    return model


def _retype_input(
    model: Any, value: Any, ranges: Mapping[str, tuple[float, float]], io: str
) -> None:
    graph, name = model.graph, value.name
    own = {
        node.output[0]: step
        for node in graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] == name
        if (step := _step(model, node)) is not None
    }
    step = retyped(next(iter(own.values())), io) if own else step_of(*ranges[name], io)
    whole = [made for made, told in own.items() if told == step]
    for node in [node for node in graph.node if node.output[0] in whole]:
        graph.node.remove(node)
    real = f"{name}_real"
    for node in graph.node:
        for place, given in enumerate(node.input):
            node.input[place] = {name: real, **dict.fromkeys(whole, name)}.get(given, given)
    if any(real in node.input for node in graph.node):
        graph.node.insert(0, _node(model, "DequantizeLinear", name, real, step))
    _set_dtype(value, io)


def _retype_output(
    model: Any, value: Any, ranges: Mapping[str, tuple[float, float]], io: str
) -> None:
    graph, name = model.graph, value.name
    makers = {each: node for node in graph.node for each in node.output}
    maker, real = makers[name], f"{name}_real"
    quantized = maker.input[0] if maker.op_type == "DequantizeLinear" else ""
    narrow = makers.get(quantized)
    own = _step(model, maker) if narrow and narrow.op_type == "QuantizeLinear" else None
    step = retyped(own, io) if own else step_of(*ranges[name], io)
    _rename(graph, name, real)
    outputs = {each.name for each in graph.output}
    if own == step and quantized not in outputs:
        _rename(graph, quantized, name)
        if not any(real in node.input for node in graph.node):
            graph.node.remove(maker)
    else:
        graph.node.append(_node(model, "QuantizeLinear", real, name, step))
    _set_dtype(value, io)


def _rename(graph: Any, old: str, new: str) -> None:
    """Calls a tensor inside `graph` otherwise, where it is made and where it is read."""
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
    for value in [each for each in graph.value_info if each.name == old]:
        graph.value_info.remove(value)


def _node(model: Any, kind: str, source: str, made: str, step: QuantizationParams) -> Any:
    onnx = need("onnx", extra=EXTRA)
    import numpy as np

    name = made if kind == "QuantizeLinear" else source
    scale, zero = f"{name}_io_scale", f"{name}_io_zero_point"
    model.graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(np.array(step.scale, np.float32), scale),
            onnx.numpy_helper.from_array(np.array(step.zero_point, step.dtype), zero),
        ]
    )
    return onnx.helper.make_node(kind, [source, scale, zero], [made], f"{name}_io")


def _dtype(value: Any) -> str:
    onnx = need("onnx", extra=EXTRA)
    kind = value.type.tensor_type.elem_type
    return str(onnx.helper.tensor_dtype_to_np_dtype(kind).name) if kind else ""


def _set_dtype(value: Any, dtype: str) -> None:
    onnx = need("onnx", extra=EXTRA)
    value.type.tensor_type.elem_type = onnx.TensorProto.DataType.Value(dtype.upper())


def _step(model: Any, node: Any) -> QuantizationParams | None:
    """What a QuantizeLinear or DequantizeLinear says of a whole tensor; None where it says it of
    channels, or computes it."""
    onnx = need("onnx", extra=EXTRA)
    constants = {each.name: each for each in model.graph.initializer}
    told = [constants.get(name) for name in node.input[1:3]]
    if len(told) < 2 or told[0] is None or told[1] is None:
        return None
    scale, zero = (onnx.numpy_helper.to_array(each) for each in told)
    if scale.size != 1 or zero.dtype.name not in WHOLE:
        return None
    return QuantizationParams(float(scale.reshape(())), int(zero.reshape(())), zero.dtype.name)


def steps_of(model: Any) -> dict[str, QuantizationParams]:
    """By name, what the whole numbers of inputs and outputs of an ONNX model stand for.

    An input is one of them where all that reads it dequantizes it in the same way, an output where
    it is quantized last; other whole numbers, such as ids and raw images, are what they are.
    """
    found: dict[str, QuantizationParams] = {}
    for value in model.graph.input:
        readers = [node for node in model.graph.node if value.name in node.input]
        told = {_step(model, n) if n.op_type == "DequantizeLinear" else None for n in readers}
        step = told.pop() if len(told) == 1 else None
        if step is not None and _dtype(value) in WHOLE:
            found[value.name] = step
    makers = {each: node for node in model.graph.node for each in node.output}
    for value in model.graph.output:
        maker = makers.get(value.name)
        step = _step(model, maker) if maker and maker.op_type == "QuantizeLinear" else None
        if step is not None:
            found[value.name] = step
    return found


def quantization(path: Path) -> dict[str, QuantizationParams]:
    """By name, what the whole numbers of inputs and outputs of the ONNX file at `path` stand for;
    see `steps_of`."""
    return steps_of(need("onnx", extra=EXTRA).load(path, load_external_data=False))
