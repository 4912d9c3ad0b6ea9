"""Reads the graph, the weights and the intermediate tensors of an OpenVINO IR."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from torch import Tensor

from edgekd.artifacts.graph import CONST, Graph, OperatorKind, malformed
from edgekd.artifacts.operators import OperatorRoles
from edgekd.artifacts.weights import Constant, NamedTensors, float_tensors, reader_of
from edgekd.system.packages import need

OPERATORS = OperatorRoles(
    transposes=("Transpose",),
    reshapes=("Reshape", "Squeeze", "Unsqueeze"),
    gates=("Sigmoid", "Tanh"),
    products=("MatMul",),
    weighted=frozenset(
        {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul", "Gather"}
        | {"GroupConvolutionBackpropData", "LSTMSequence", "GRUSequence", "RNNSequence"}
        | {"LSTMCell", "GRUCell", "RNNCell"}
    ),
    after_weights=frozenset(
        {"Convert", "Multiply", "Subtract", "FakeQuantize", "Transpose", "Reshape"}
    ),
    unrolled_source="measured, OpenVINO 2026.4: an unrolled GRU ran 11 times slower than a whole "
    "one",
)


def run_tensors(path: Path, inputs: Mapping[str, Tensor]) -> NamedTensors:
    """Runs the file in OpenVINO's CPU plugin in float32."""
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
        readers = [target.get_node().get_type_name() for target in port.get_target_inputs()]
        if "Result" in readers:  # An output has a name already, and takes no other.
            kept[port.get_any_name()] = op.get_friendly_name()
            continue
        port.add_names({f"edgekd:{number}"})
        model.add_outputs([port])
        kept[f"edgekd:{number}"] = op.get_friendly_name()
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled({name: tensor.numpy() for name, tensor in inputs.items()})
    return float_tensors({name: results[compiled.output(port)] for port, name in kept.items()})


def quantized_tensors(path: Path) -> dict[str, str]:
    """The operations in front of a FakeQuantize, each with that FakeQuantize."""
    model = need("openvino", extra="openvino").Core().read_model(path)
    return {
        op.input_value(0).get_node().get_friendly_name(): op.get_friendly_name()
        for op in model.get_ordered_ops()
        if op.get_type_name() == "FakeQuantize"
    }


_DTYPES = {"FP": "float", "I": "int", "U": "uint", "BF": "bfloat", "BOOL": "bool"}


def read_graph(path: Path) -> Graph:
    """The operators in the `.xml` at `path`; its `.bin` is not read.

    Source: docs.openvino.ai/2025/documentation/openvino-ir-format.html
    """
    try:
        text = path.read_text(encoding="utf-8")
        # OpenVINO writes none, and one could name other files or grow without end.
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise malformed(path, "OpenVINO", "it declares a document type")
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise malformed(path, "OpenVINO", error) from error
    if root.tag != "net":
        raise malformed(path, "OpenVINO", f"its root is {root.tag}")
    found: Counter[OperatorKind] = Counter()
    # Bodies of loops and of recurrent layers have layers and edges of their own, inside.
    for body in root.iter():
        layers = body.find("layers")
        if layers is not None:
            found.update(_kinds(layers, body.find("edges")))
    top = [layer.get("type") for layer in root.findall("layers/layer")]
    return Graph("openvino", found, top.count("Parameter"), top.count("Result"), OPERATORS)


def _kinds(layers: Any, edges: Any) -> Iterator[OperatorKind]:
    kinds = {layer.get("id"): str(layer.get("type")) for layer in layers.findall("layer")}
    source = {
        (edge.get("to-layer"), edge.get("to-port")): kinds.get(edge.get("from-layer"), "")
        for edge in (edges if edges is not None else ())
    }
    for layer in layers.findall("layer"):
        if layer.get("type") in ("Const", "Parameter", "Result"):
            continue
        takes = []
        for port in layer.findall("input/port"):
            constant = source.get((layer.get("id"), port.get("id"))) == "Const"
            takes.append((CONST if constant else "") + _dtype(port))
        gives = tuple(_dtype(port) for port in layer.findall("output/port"))
        yield OperatorKind(str(layer.get("type")), tuple(takes), gives)


def _dtype(port: Any) -> str:
    name = str(port.get("precision") or "")
    letters = name.rstrip("0123456789")
    return _DTYPES.get(letters, letters.lower()) + name[len(letters) :]


def read_weights(path: Path) -> Iterator[Constant]:
    """The constants in the `.xml` at `path`."""
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    for body in root.iter():
        layers, edges = body.find("layers"), body.find("edges")
        if layers is None:
            continue
        kinds = {layer.get("id"): str(layer.get("type")) for layer in layers.findall("layer")}
        readers: dict[str, list[tuple[str, Sequence[str]]]] = {}
        for edge in edges.findall("edge") if edges is not None else ():
            taker = str(edge.get("to-layer"))
            entry = (kinds.get(taker, ""), [taker])
            readers.setdefault(str(edge.get("from-layer")), []).append(entry)
        for layer in layers.findall("layer"):
            if layer.get("type") != "Const":
                continue
            data = layer.find("data")
            attributes = {} if data is None else data.attrib
            sizes = attributes.get("shape", "").split(",")
            shape = tuple(int(size) for size in sizes if size.strip())
            operator = reader_of(str(layer.get("id")), readers, OPERATORS.after_weights)
            yield Constant(operator, attributes.get("element_type", ""), shape)
