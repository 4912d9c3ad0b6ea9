"""Gives a quantized OpenVINO model integer inputs and outputs in place of float32 ones.

Scale and zero point are in the file: `rt_info`, section `edgekd`, key `quantization`, as JSON.
Source: https://docs.openvino.ai/2025/openvino-workflow/model-optimization-guide (low precision
transformations: Convert, Subtract and Multiply behind an input of 8 bits are its dequantization)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from edgekd.artifacts.quantization_params import QuantizationParams
from edgekd.formats.integer_io import params_over, retyped
from edgekd.system.packages import need

EXTRA = "openvino"
INFO = ["edgekd", "quantization"]


def retype(ov: Any, model: Any, ranges: Mapping[str, tuple[float, float]], io: str) -> Any:
    """The quantized `model` with inputs and outputs of `io` in place of float32.

    Args:
        ranges: of float32 inputs and outputs, by name, for those that the model does not quantize.
    """
    ops = need("openvino.opset13", extra=EXTRA)
    kind, real = getattr(ov.Type, {"uint8": "u8", "int8": "i8"}[io]), ov.Type.f32
    steps: dict[str, QuantizationParams] = {}
    for parameter in model.get_parameters():
        if parameter.get_element_type() != real:
            continue
        port = parameter.output(0)
        name, readers = port.get_any_name(), list(port.get_target_inputs())
        own = _own(readers)
        step = steps[name] = retyped(own, io) if own else params_over(*ranges[name], io)
        parameter.set_element_type(kind)
        parameter.validate_and_infer_types()
        number = ops.convert(parameter, "f32")
        number = ops.subtract(number, _constant(ops, step.zero_point))
        value = ops.multiply(number, _constant(ops, step.scale))
        for reader in readers:
            reader.replace_source_output(value.output(0))
    for result in model.get_results():
        source = result.input_value(0)
        if source.get_element_type() != real:
            continue
        name = source.get_any_name()
        step = steps[name] = params_over(*ranges[name], io)
        names = source.get_names()
        source.set_names(set())
        least = {"uint8": 0, "int8": -128}[io]
        number = ops.divide(source, _constant(ops, step.scale))
        number = ops.add(ops.round(number), _constant(ops, step.zero_point))
        code = ops.convert(ops.clamp(number, least, least + 255), kind.to_string())
        result.input(0).replace_source_output(code.output(0))
        code.output(0).set_names(names)
    model.validate_nodes_and_infer_types()
    return record(model, steps)


def record(model: Any, steps: Mapping[str, QuantizationParams]) -> Any:
    """`model` with the scale and zero point of its integer inputs and outputs written into it."""
    document = {name: vars(step) for name, step in steps.items()}
    model.set_rt_info(json.dumps(document, sort_keys=True), INFO)
    return model


def quantization(path: Path) -> dict[str, QuantizationParams]:
    """The scale and zero point of the quantized inputs and outputs of the model at `path`."""
    entry = ElementTree.parse(path).getroot().find("rt_info/" + "/".join(INFO))
    text = entry.get("value") if entry is not None else None
    document = json.loads(text) if text else {}
    return {name: QuantizationParams(**step) for name, step in document.items()}


def _own(readers: Any) -> QuantizationParams | None:
    """The scale and zero point by which every reader of an input quantizes it, or None."""
    steps = {_step(reader.get_node()) for reader in readers}
    return steps.pop() if len(steps) == 1 else None


def _step(node: Any) -> QuantizationParams | None:
    if node.get_type_name() != "FakeQuantize" or node.get_levels() != 256:
        return None
    ends = [node.input_value(index).get_node() for index in (1, 2)]
    if any(end.get_type_name() != "Constant" or end.get_data().size != 1 for end in ends):
        return None
    low, high = (float(end.get_data().reshape(())) for end in ends)
    return params_over(low, high, "uint8") if low <= 0 <= high and low < high else None


def _constant(ops: Any, value: float) -> Any:
    import numpy as np

    return ops.constant(np.array(value, np.float32))
