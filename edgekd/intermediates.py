"""Every tensor that a saved file computes on the way to its outputs, in the order it does.

They are read here, on this machine: from a copy whose inner tensors are outputs too, or from an
interpreter that keeps them. Integers are given as the real numbers they stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgekd.artifact import Artifact
from edgekd.folding import turned
from edgekd.integers import as_numbers
from edgekd.mil import load_program
from edgekd.ncnn_param import INPUT, WHOLE, read_param
from edgekd.need import need

Found = dict[str, Tensor]


def as_taken(artifact: Artifact, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's `inputs` as the file takes them: images turned, real values as its numbers."""
    arrays = {n: t.numpy() for n, t in turned(inputs, artifact.channels_last).items()}
    numbers = as_numbers(arrays, artifact.quantization)
    return {name: torch.from_numpy(value) for name, value in numbers.items()}


def onnx(path: Path, inputs: Mapping[str, Tensor]) -> Found:
    """By ONNX Runtime, without fusions, which would leave tensors out."""
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
    options.log_severity_level = 3  # Of initializers that are not used it would warn each time.
    session = runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
    found = dict(zip(names, values, strict=True))
    # Quantized tensors come back to real numbers right behind: those are looked at.
    return _floats({name: found[name] for name in inner if name in found})


def openvino(path: Path, inputs: Mapping[str, Tensor]) -> Found:
    """By OpenVINO's CPU plugin in float32."""
    ov = need("openvino", extra="openvino")
    core = ov.Core()
    model = core.read_model(path)
    skip = ("Constant", "Result", "Parameter")
    inner = [op for op in model.get_ordered_ops() if op.get_type_name() not in skip]
    kept = {}
    for number, op in enumerate(inner):
        port = op.output(0)
        if not port.get_element_type().is_real():
            continue
        ends = [each.get_node().get_type_name() for each in port.get_target_inputs()]
        if "Result" in ends:  # It has a name already, and takes no other.
            kept[port.get_any_name()] = op.get_friendly_name()
            continue
        port.add_names({f"edgekd:{number}"})
        model.add_outputs([port])
        kept[f"edgekd:{number}"] = op.get_friendly_name()
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled({name: tensor.numpy() for name, tensor in inputs.items()})
    return _floats({name: results[compiled.output(port)] for port, name in kept.items()})


def litert(path: Path, inputs: Mapping[str, Tensor]) -> Found:
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


def coreml(path: Path, inputs: Mapping[str, Tensor]) -> Found:
    """By the reference evaluator."""
    found: Found = {}
    load_program(path)(inputs, kept=found)
    return {name: value.float() for name, value in found.items() if value.is_floating_point()}


def ncnn(path: Path, inputs: Mapping[str, Tensor]) -> Found:
    """By ncnn in float32, one sample."""
    library = need("ncnn", extra="ncnn")
    net = library.Net()
    for option in dir(net.opt):
        if option.startswith(("use_fp16_", "use_bf16_")):
            setattr(net.opt, option, False)
    net.load_param(str(path))
    net.load_model(str(path.with_suffix(".bin")))
    layers = read_param(path)
    whole = {layer.gives[0] for layer in layers if layer.values.get(str(WHOLE)) == "1"}
    extractor = net.create_extractor()
    extractor.set_light_mode(False)
    for name, tensor in inputs.items():
        array = tensor.numpy().astype(np.int32 if name in whole else np.float32)
        extractor.input(name, library.Mat(array[0] if array.ndim > 1 else array).clone())
    names = [name for layer in layers if layer.kind != INPUT for name in layer.gives]
    found = {name: np.array(extractor.extract(name)[1])[None] for name in names}
    return _floats(found)


def _floats(found: Mapping[str, Any]) -> Found:
    return {
        name: torch.from_numpy(np.array(value, dtype=np.float32))
        for name, value in found.items()
        if value.dtype.kind == "f"
    }


READERS: dict[str, Callable[[Path, Mapping[str, Tensor]], Found]] = {
    "onnx": onnx,
    "openvino": openvino,
    "litert": litert,
    "coreml": coreml,
    "ncnn": ncnn,
}
"""By format."""


def rounded(path: Path, format: str) -> dict[str, str]:
    """By tensor of the file at `path` that is rounded to integers right behind, the real numbers
    those stand for: with fusions, as it runs, the first is not there."""
    if format == "onnx":
        nodes = need("onnx", extra="onnx").load(path).graph.node
        whole = {n.input[0]: n.output[0] for n in nodes if n.op_type == "QuantizeLinear"}
        real = {n.input[0]: n.output[0] for n in nodes if n.op_type == "DequantizeLinear"}
        return {name: real[value] for name, value in whole.items() if value in real}
    if format == "openvino":
        model = need("openvino", extra="openvino").Core().read_model(path)
        return {
            op.input_value(0).get_node().get_friendly_name(): op.get_friendly_name()
            for op in model.get_ordered_ops()
            if op.get_type_name() == "FakeQuantize"
        }
    return {}
