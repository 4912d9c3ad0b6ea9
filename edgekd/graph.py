"""The operators in a saved file, read from the file itself, whichever format it has.

Nothing is loaded into a runtime, and no weight is read: what is here is what the converter wrote.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from edgekd.errors import listed
from edgekd.ncnn_param import INPUT, read_param
from edgekd.need import need
from edgekd.operators import GATES, PRODUCTS, RESHAPES, STEPS, TRANSPOSES
from edgekd.process import output_to

CONST = "const "
"""Before the element type of an input whose value is in the file."""


@dataclass(frozen=True)
class Kind:
    """What operators have in common: their type, and the element types of what they take and give.

    Attributes:
        operator: the type, as the format calls it; of a custom operator, its own name.
        takes: of each input in order (in Core ML, of their names): "float32", "const int8" where
            the value is in the file, "" where it is absent or unknown.
        gives: of each output. Around an ONNX operator, the types behind DequantizeLinear and
            QuantizeLinear: those are what a runtime computes in where it fuses the three.
        steps: the quantization step of each of these, 0 where there is not one for the whole
            tensor; empty where none is quantized. Only LiteRT files tell.
    """

    operator: str
    takes: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    steps: tuple[float, ...] = ()


@dataclass(frozen=True)
class Graph:
    """The operators of a saved file; constants, inputs and outputs are not counted.

    Attributes:
        format: onnx, openvino, litert, coreml or ncnn.
        kinds: how many operators there are of each kind, in inner graphs too.
        inputs: how many inputs the file has.
        outputs: how many outputs it has.
    """

    format: str
    kinds: Mapping[Kind, int]
    inputs: int = 0
    outputs: int = 0

    @property
    def operators(self) -> dict[str, int]:
        """How many operators there are of each type, by name."""
        found: Counter[str] = Counter()
        for kind, count in self.kinds.items():
            found[kind.operator] += count
        return dict(sorted(found.items()))

    @property
    def count(self) -> int:
        """How many operators there are in all."""
        return sum(self.kinds.values())

    def total(self, names: tuple[str, ...]) -> int:
        """How many operators are of one of the types `names`."""
        return sum(count for kind, count in self.kinds.items() if kind.operator in names)

    @property
    def transposes(self) -> int:
        """How many operators only move elements to another order."""
        return self.total(TRANSPOSES[self.format])

    @property
    def reshapes(self) -> int:
        """How many operators only change the shape."""
        return self.total(RESHAPES[self.format])

    @property
    def unrolled(self) -> str | None:
        """A sentence where a recurrent layer was written out step by step, or None."""
        gate, candidate = GATES[self.format]
        gates, candidates = self.total((gate,)), self.total((candidate,))
        products = self.total(PRODUCTS[self.format])
        if candidates < STEPS or gates <= candidates or 2 * products < candidates:
            return None
        return (
            f"A recurrent layer is written out step by step: {gates} {gate}, {candidates} "
            f"{candidate} and {products} matrix products among {self.count} operators"
        )


def read_graph(path: Path, format: str) -> Graph:
    """The operators in the file or package at `path`.

    Args:
        path: as a runtime is given it.
        format: onnx, openvino, litert, coreml or ncnn.
    Raises:
        ValueError: the format is none of these, or the file is not one of that format.
        OSError: it is not there.
        MissingPackageError: the package that reads the format is not installed.
    """
    if format not in READERS:
        raise ValueError(f"operators are read from {listed(READERS)} files, not {format}")
    return READERS[format](path)


def _broken(path: Path, format: str, why: object) -> ValueError:
    return ValueError(f"{path.name} is no {format} file: {why}")


_ONNX = {"float": "float32", "double": "float64"}


def _onnx(path: Path) -> Graph:
    onnx = need("onnx", extra="onnx")
    malformed: type[Exception] = need("google.protobuf.message", extra="onnx").DecodeError
    try:
        model = onnx.load(path, load_external_data=False)
    except malformed as error:
        raise _broken(path, "ONNX", error) from error
    if not model.graph.output:
        raise _broken(path, "ONNX", "it has no outputs")
    bodies = {(each.domain, each.name): each.node for each in model.functions}
    names = {
        number: _ONNX.get(name.lower(), name.lower())
        for name, number in onnx.TensorProto.DataType.items()
    }
    found = Counter(_onnx_kinds(model.graph.node, _onnx_types(model.graph, names), names, bodies))
    weights = {entry.name for entry in model.graph.initializer}
    inputs = sum(entry.name not in weights for entry in model.graph.input)
    return Graph("onnx", found, inputs, len(model.graph.output))


def _onnx_kinds(
    nodes: Any, known: Mapping[str, str], names: Mapping[int, str], bodies: Mapping[Any, Any]
) -> Iterator[Kind]:
    before, after = _onnx_quantized(nodes, known)
    inside = {**known, **before}, {**known, **after}
    for node in nodes:
        body = bodies.get((node.domain, node.op_type))
        if body is not None:
            yield from _onnx_kinds(body, {}, names, bodies)
            continue
        if node.op_type != "Constant":
            takes, gives = (known, known) if node.op_type in _QDQ else inside
            yield Kind(
                node.op_type,
                tuple(takes.get(name, "") for name in node.input),
                tuple(gives.get(name, "") for name in node.output),
            )
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _onnx_kinds(
                    inner.node, {**known, **_onnx_types(inner, names)}, names, bodies
                )


_QDQ = ("QuantizeLinear", "DequantizeLinear")


def _onnx_quantized(nodes: Any, known: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The types in front of DequantizeLinear, by what it gives, and behind QuantizeLinear, by what
    it takes, where nothing else takes it."""
    used = Counter(name for node in nodes for name in node.input)
    stored, before, after = dict(known), {}, {}
    for node in nodes:
        if node.op_type == "QuantizeLinear":
            zero_point = node.input[2] if len(node.input) > 2 else ""
            stored[node.output[0]] = known.get(zero_point, "uint8").removeprefix(CONST)
            if used[node.input[0]] == 1:
                after[node.input[0]] = stored[node.output[0]]
        elif node.op_type == "DequantizeLinear":
            before[node.output[0]] = stored.get(node.input[0], "")
    return before, after


def _onnx_types(graph: Any, names: Mapping[int, str]) -> dict[str, str]:
    """The element types of the values of `graph` that the file tells of."""
    known = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        known[value.name] = names.get(value.type.tensor_type.elem_type, "")
    for entry in graph.initializer:
        known[entry.name] = CONST + names.get(entry.data_type, "")
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            known[node.output[0]] = CONST + names.get(attribute.t.data_type, "")
    return {name: kind for name, kind in known.items() if kind != "undefined"}


_OPENVINO = {"FP": "float", "I": "int", "U": "uint", "BF": "bfloat", "BOOL": "bool"}


def _openvino(path: Path) -> Graph:
    """From the `.xml` alone.

    Source: docs.openvino.ai/2025/documentation/openvino-ir-format.html
    """
    try:
        text = path.read_text(encoding="utf-8")
        # OpenVINO writes none, and one could name other files or grow without end.
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise _broken(path, "OpenVINO", "it declares a document type")
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise _broken(path, "OpenVINO", error) from error
    if root.tag != "net":
        raise _broken(path, "OpenVINO", f"its root is {root.tag}")
    found: Counter[Kind] = Counter()
    # Bodies of loops and of recurrent layers have layers and edges of their own, inside.
    for body in root.iter():
        layers = body.find("layers")
        if layers is not None:
            found.update(_openvino_kinds(layers, body.find("edges")))
    top = [layer.get("type") for layer in root.findall("layers/layer")]
    return Graph("openvino", found, top.count("Parameter"), top.count("Result"))


def _openvino_kinds(layers: Any, edges: Any) -> Iterator[Kind]:
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
            takes.append((CONST if constant else "") + _openvino_type(port))
        gives = tuple(_openvino_type(port) for port in layer.findall("output/port"))
        yield Kind(str(layer.get("type")), tuple(takes), gives)


def _openvino_type(port: Any) -> str:
    name = str(port.get("precision") or "")
    letters = name.rstrip("0123456789")
    return _OPENVINO.get(letters, letters.lower()) + name[len(letters) :]


def _litert(path: Path) -> Graph:
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
        found: Counter[Kind] = Counter()
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
) -> Iterator[Kind]:
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
        yield Kind(name, takes, gives, own if any(own) else ())
        if name in ("DEQUANTIZE", "DENSIFY") and takes[0].startswith(CONST):
            # Weights stored in another form: what comes out is as constant as what went in.
            names[outputs[0]] = CONST + names[outputs[0]]


def _coreml(path: Path) -> Graph:
    """Source: apple.github.io/coremltools/mlmodel/Format/MIL.html."""
    # Importing coremltools complains of every package it was not tested with.
    with output_to(Path(os.devnull)):
        proto = need("coremltools.proto", extra="coreml")
    malformed: type[Exception] = need("google.protobuf.message", extra="coreml").DecodeError
    model = proto.Model_pb2.Model()
    place = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    try:
        model.ParseFromString(place.read_bytes())
    except malformed as error:
        raise _broken(path, "Core ML", error) from error
    if model.WhichOneof("Type") != "mlProgram":
        raise _broken(path, "Core ML", f"it is no ML program but {model.WhichOneof('Type')}")
    types = proto.MIL_pb2.DataType
    found: Counter[Kind] = Counter()
    for function in model.mlProgram.functions.values():
        known = {entry.name: _coreml_type(entry.type, types) for entry in function.inputs}
        block = function.block_specializations[function.opset]
        found.update(_coreml_kinds(block, known, types))
    description = model.description
    return Graph("coreml", found, len(description.input), len(description.output))


def _coreml_kinds(block: Any, known: dict[str, str], types: Any) -> Iterator[Kind]:
    for entry in block.inputs:
        known[entry.name] = _coreml_type(entry.type, types)
    for operation in block.operations:
        gives = tuple(_coreml_type(entry.type, types) for entry in operation.outputs)
        # Weights that are compressed are operators by name, and constants by what they are.
        constant = operation.type == "const" or operation.type.startswith("constexpr_")
        for entry, kind in zip(operation.outputs, gives, strict=True):
            known[entry.name] = (CONST if constant else "") + kind
        if constant:
            continue
        takes = tuple(
            CONST + _coreml_type(bound.value.type, types)
            if bound.WhichOneof("binding") == "value"
            else known.get(bound.name, "")
            for _, argument in sorted(operation.inputs.items())
            for bound in argument.arguments
        )
        yield Kind(operation.type, takes, gives)
        for inner in operation.blocks:
            yield from _coreml_kinds(inner, known, types)


def _coreml_type(value_type: Any, types: Any) -> str:
    if value_type.WhichOneof("type") != "tensorType":
        return ""
    return str(types.Name(value_type.tensorType.dataType)).lower()


def _ncnn(path: Path) -> Graph:
    """Source: github.com/Tencent/ncnn/wiki/param-and-model-file-structure.

    What pnnx did not name is a number.
    """
    layers = read_param(path)
    inner = [layer for layer in layers if layer.kind not in (INPUT, "Split", "MemoryData")]
    kinds = Counter(Kind(layer.kind) for layer in inner)
    read = {name for layer in layers for name in layer.takes}
    given = [name for layer in layers for name in layer.gives if not name.isdigit()]
    inputs = sum(layer.kind == INPUT for layer in layers)
    return Graph("ncnn", kinds, inputs, sum(name not in read for name in given))


READERS: dict[str, Callable[[Path], Graph]] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "litert": _litert,
    "coreml": _coreml,
    "ncnn": _ncnn,
}
