"""Gives a quantized ONNX file integer inputs and outputs in place of float32 ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.artifacts.quantization_params import QuantizationParams
from edgekd.formats.integer_io import params_over, retyped
from edgekd.system.packages import need

EXTRA = "onnx"
INTEGERS = ("int8", "uint8")


def retype(model: Any, ranges: Mapping[str, tuple[float, float]], io: str) -> Any:
    """The quantized `model` with inputs and outputs of `io` in place of float32.

    A DequantizeLinear comes behind each input and a QuantizeLinear before each output. Where the
    file has the inverse with the same scale and zero point there, the pair is removed. One with
    codes of the other signedness stays: the conversion between the two is exact.

    Args:
        ranges: of float32 inputs and outputs, by name, for those that the file does not quantize.
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
    step = retyped(next(iter(own.values())), io) if own else params_over(*ranges[name], io)
    same = [output for output, params in own.items() if params == step]
    for node in [node for node in graph.node if node.output[0] in same]:
        graph.node.remove(node)
    real = f"{name}_real"
    for node in graph.node:
        for index, source in enumerate(node.input):
            node.input[index] = {name: real, **dict.fromkeys(same, name)}.get(source, source)
    if any(real in node.input for node in graph.node):
        graph.node.insert(0, _node(model, "DequantizeLinear", name, real, step))
    _set_dtype(value, io)


def _retype_output(
    model: Any, value: Any, ranges: Mapping[str, tuple[float, float]], io: str
) -> None:
    graph, name = model.graph, value.name
    makers = {output: node for node in graph.node for output in node.output}
    maker, real = makers[name], f"{name}_real"
    quantized = maker.input[0] if maker.op_type == "DequantizeLinear" else ""
    narrow = makers.get(quantized)
    own = _step(model, maker) if narrow and narrow.op_type == "QuantizeLinear" else None
    step = retyped(own, io) if own else params_over(*ranges[name], io)
    _rename(graph, name, real)
    outputs = {output.name for output in graph.output}
    if own == step and quantized not in outputs:
        _rename(graph, quantized, name)
        if not any(real in node.input for node in graph.node):
            graph.node.remove(maker)
    else:
        graph.node.append(_node(model, "QuantizeLinear", real, name, step))
    _set_dtype(value, io)


def _rename(graph: Any, old: str, new: str) -> None:
    """Renames a tensor inside `graph`, where it is computed and where it is read."""
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
    for value in [info for info in graph.value_info if info.name == old]:
        graph.value_info.remove(value)


def _node(model: Any, kind: str, source: str, target: str, step: QuantizationParams) -> Any:
    onnx = need("onnx", extra=EXTRA)
    import numpy as np

    name = target if kind == "QuantizeLinear" else source
    scale, zero = f"{name}_io_scale", f"{name}_io_zero_point"
    model.graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(np.array(step.scale, np.float32), scale),
            onnx.numpy_helper.from_array(np.array(step.zero_point, step.dtype), zero),
        ]
    )
    return onnx.helper.make_node(kind, [source, scale, zero], [target], f"{name}_io")


def _dtype(value: Any) -> str:
    onnx = need("onnx", extra=EXTRA)
    kind = value.type.tensor_type.elem_type
    return str(onnx.helper.tensor_dtype_to_np_dtype(kind).name) if kind else ""


def _set_dtype(value: Any, dtype: str) -> None:
    onnx = need("onnx", extra=EXTRA)
    value.type.tensor_type.elem_type = onnx.TensorProto.DataType.Value(dtype.upper())


def _step(model: Any, node: Any) -> QuantizationParams | None:
    """The scale and zero point of a QuantizeLinear or DequantizeLinear; None where they are per
    channel or computed."""
    onnx = need("onnx", extra=EXTRA)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    params = [constants.get(name) for name in node.input[1:3]]
    if len(params) < 2 or params[0] is None or params[1] is None:
        return None
    scale, zero = (onnx.numpy_helper.to_array(tensor) for tensor in params)
    if scale.size != 1 or zero.dtype.name not in INTEGERS:
        return None
    return QuantizationParams(float(scale.reshape(())), int(zero.reshape(())), zero.dtype.name)


def steps_of(model: Any) -> dict[str, QuantizationParams]:
    """The scale and zero point of the quantized inputs and outputs of an ONNX model, by name.

    An input is quantized where every operator that reads it dequantizes it in the same way, an
    output where a QuantizeLinear gives it. Other integers, such as ids and raw images, are not.
    """
    found: dict[str, QuantizationParams] = {}
    for value in model.graph.input:
        readers = [node for node in model.graph.node if value.name in node.input]
        steps = {_step(model, n) if n.op_type == "DequantizeLinear" else None for n in readers}
        step = steps.pop() if len(steps) == 1 else None
        if step is not None and _dtype(value) in INTEGERS:
            found[value.name] = step
    makers = {output: node for node in model.graph.node for output in node.output}
    for value in model.graph.output:
        maker = makers.get(value.name)
        step = _step(model, maker) if maker and maker.op_type == "QuantizeLinear" else None
        if step is not None:
            found[value.name] = step
    return found


def quantization(path: Path) -> dict[str, QuantizationParams]:
    """The scale and zero point of the quantized inputs and outputs of the file at `path`; see
    `steps_of`."""
    return steps_of(need("onnx", extra=EXTRA).load(path, load_external_data=False))
