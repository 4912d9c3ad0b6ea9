"""In which types a saved file holds its weights, and which operators read them.

The file itself is read, as `edgekd.graph` does: what is here is what the quantizer wrote.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from edgekd.need import need
from edgekd.operators import AFTER_WEIGHTS, WEIGHTED
from edgekd.process import output_to


@dataclass(frozen=True)
class Weight:
    """Constant tensors of a file that have something in common.

    Attributes:
        operator: the type of what reads it, behind the operators that only make floats of it.
        bits: in which a value is stored; of a palette, 8 at most.
    """

    operator: str
    bits: int


@dataclass(frozen=True)
class Stored:
    """The weights of a file: constants of two axes or more, neither biases nor scales.

    Attributes:
        values: how many values there are of each kind.
    """

    values: Mapping[Weight, int]

    def frac(self, bits: int) -> float:
        """The share of the values that take so many bits or fewer; 0 where there are none."""
        whole = sum(self.values.values())
        return sum(n for each, n in self.values.items() if each.bits <= bits) / (whole or 1)

    @property
    def in_float(self) -> list[str]:
        """The types of operators that read a hundredth of all values or more in float, that of most
        first."""
        least = sum(self.values.values()) / 100
        found: Counter[str] = Counter()
        for each, count in self.values.items():
            if each.bits > 8 and each.operator in WEIGHTED:
                found[each.operator] += count
        return [name for name, count in found.most_common() if count >= least]


BITS = {
    1: "uint1 u1",
    2: "int2 uint2 i2 u2",
    4: "int4 uint4 i4 u4 nf4 f4e2m1",
    8: "int8 uint8 i8 u8 float8e4m3fn float8e5m2 f8e4m3 f8e5m2",
    16: "float16 bfloat16 fp16 f16 bf16",
    32: "float float32 fp32 f32",
    64: "double float64 f64",
}
"""Of the element types of all formats; whole numbers of more bits are indices, or biases."""
_BITS = {name: bits for bits, names in BITS.items() for name in names.split()}


def read_stored(path: Path, format: str) -> Stored | None:
    """The weights in the file or package at `path`; None of a format that is not read.

    Raises:
        OSError: it is not there.
        MissingPackageError: the package that reads the format is not installed.
    """
    reader = READERS.get(format)
    return Stored(Counter(dict(_counted(reader(path))))) if reader else None


@dataclass(frozen=True)
class Constant:
    """A constant tensor: the operator that reads it, its element type and its shape."""

    operator: str
    kind: str
    shape: tuple[int, ...]


def _counted(constants: Iterable[Constant]) -> Mapping[Weight, int]:
    found: Counter[Weight] = Counter()
    for each in constants:
        count = math.prod(each.shape)
        # One long axis alone: a bias, a scale, or what a norm multiplies by.
        if each.kind in _BITS and count > max(each.shape, default=1):
            found[Weight(each.operator, _BITS[each.kind])] += count
    return found


def _reader(name: str, readers: Mapping[str, Sequence[tuple[str, Sequence[str]]]]) -> str:
    """The type of the operator that reads `name` at last, by what operators take and give."""
    seen = set()
    while name not in seen:
        seen.add(name)
        operator, gives = next(iter(readers.get(name, ())), ("", ()))
        if operator not in AFTER_WEIGHTS or not gives:
            return operator
        name = gives[0]
    return ""


_ONNX_OWN = {
    "DynamicQuantizeLSTM": "LSTM",
    "MatMulInteger": "MatMul",
    "DynamicQuantizeMatMul": "MatMul",
    "MatMulNBits": "MatMul",
    "ConvInteger": "Conv",
}
"""Operators of quantized files, and those whose weights they have."""


def _onnx(path: Path) -> Iterator[Constant]:
    onnx = need("onnx", extra="onnx")
    model = onnx.load(path, load_external_data=False)
    names = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        readers: dict[str, list[tuple[str, Sequence[str]]]] = {}
        tensors = [(each.name, each) for each in getattr(graph, "initializer", ())]
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, []).append((node.op_type, list(node.output)))
            for attribute in node.attribute if node.op_type == "Constant" else ():
                tensors.append((node.output[0], attribute.t))
        for name, tensor in tensors:
            operator = _reader(name, readers)
            shape, kind = tuple(tensor.dims), names[tensor.data_type]
            if operator == "MatMulNBits":
                if kind != "uint8" or len(shape) < 3:
                    continue  # The scales and zero points of its blocks.
                kind, shape = "uint4", (*shape[:-1], 2 * shape[-1])  # Two values a byte.
            yield Constant(_ONNX_OWN.get(operator, operator), kind, shape)


def _openvino(path: Path) -> Iterator[Constant]:
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
            told = {} if data is None else data.attrib
            shape = tuple(int(size) for size in told.get("shape", "").split(",") if size.strip())
            operator = _reader(str(layer.get("id")), readers)
            yield Constant(operator, told.get("element_type", ""), shape)


def _litert(path: Path) -> Iterator[Constant]:
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


def _coreml(path: Path) -> Iterator[Constant]:
    # Importing coremltools complains of every package it was not tested with.
    with output_to(Path(os.devnull)):
        proto = need("coremltools.proto", extra="coreml")
    model = proto.Model_pb2.Model()
    model.ParseFromString((path / "Data" / "com.apple.CoreML" / "model.mlmodel").read_bytes())
    types = proto.MIL_pb2.DataType
    for function in model.mlProgram.functions.values():
        block = function.block_specializations[function.opset]
        readers: dict[str, list[tuple[str, Sequence[str]]]] = {}
        constants: list[Any] = []
        given: dict[str, tuple[tuple[int, ...], str]] = {}
        for operation in block.operations:
            given |= {entry.name: _coreml_type(entry.type, types) for entry in operation.outputs}
            gives = [entry.name for entry in operation.outputs]
            for argument in operation.inputs.values():
                for bound in argument.arguments:
                    readers.setdefault(bound.name, []).append((operation.type, gives))
            if operation.type == "const" or operation.type.startswith("constexpr_"):
                constants.append(operation)
        for operation in constants:
            (output,) = operation.outputs
            shape, kind = given[output.name]
            operator = _reader(output.name, readers)
            if operator.startswith("constexpr_"):
                continue  # Counted where it comes out.
            if operation.type == "constexpr_blockwise_shift_scale":
                data = operation.inputs["data"].arguments[0]
                told = _coreml_type(data.value.type, types) if data.HasField("value") else None
                _, kind = told or given[data.name]
            elif operation.type in ("constexpr_affine_dequantize", "constexpr_lut_to_dense"):
                kind = "int8"
            yield Constant(operator, kind, shape)


def _coreml_type(value_type: Any, types: Any) -> tuple[tuple[int, ...], str]:
    tensor = value_type.tensorType
    shape = tuple(each.constant.size for each in tensor.dimensions)
    return shape, types.Name(tensor.dataType).lower()


READERS: dict[str, Callable[[Path], Iterator[Constant]]] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "litert": _litert,
    "coreml": _coreml,
}
