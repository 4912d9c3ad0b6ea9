"""Reads the graph, the weights and the intermediate tensors of a Core ML package."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from edgekd.artifacts.graph import CONST, Graph, OperatorKind, malformed
from edgekd.artifacts.operators import OperatorRoles
from edgekd.artifacts.weights import Constant, NamedTensors, reader_of
from edgekd.formats.coreml.mil import load_program
from edgekd.system.output import output_to
from edgekd.system.packages import need

OPERATORS = OperatorRoles(
    transposes=("transpose",),
    reshapes=("reshape", "squeeze", "expand_dims"),
    gates=("sigmoid", "tanh"),
    products=("linear", "matmul"),
    weighted=frozenset(
        {"conv", "conv_transpose", "linear", "matmul", "lstm", "gru", "rnn", "gather"}
    ),
)


def run_tensors(path: Path, inputs: Mapping[str, Tensor]) -> NamedTensors:
    """Runs the program in the reference evaluator."""
    tensors: NamedTensors = {}
    load_program(path)(inputs, kept=tensors)
    return {name: value.float() for name, value in tensors.items() if value.is_floating_point()}


def read_graph(path: Path) -> Graph:
    """The operators in the package at `path`.

    Source: apple.github.io/coremltools/mlmodel/Format/MIL.html
    """
    # coremltools warns, when imported, of every package that it was not tested with.
    with output_to(Path(os.devnull)):
        proto = need("coremltools.proto", extra="coreml")
    decode_error: type[Exception] = need("google.protobuf.message", extra="coreml").DecodeError
    model = proto.Model_pb2.Model()
    file = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    try:
        model.ParseFromString(file.read_bytes())
    except decode_error as error:
        raise malformed(path, "Core ML", error) from error
    if model.WhichOneof("Type") != "mlProgram":
        raise malformed(path, "Core ML", f"it is no ML program but {model.WhichOneof('Type')}")
    types = proto.MIL_pb2.DataType
    found: Counter[OperatorKind] = Counter()
    for function in model.mlProgram.functions.values():
        known = {entry.name: _dtype(entry.type, types) for entry in function.inputs}
        block = function.block_specializations[function.opset]
        found.update(_kinds(block, known, types))
    description = model.description
    inputs, outputs = len(description.input), len(description.output)
    return Graph("coreml", found, inputs, outputs, OPERATORS)


def _kinds(block: Any, known: dict[str, str], types: Any) -> Iterator[OperatorKind]:
    for entry in block.inputs:
        known[entry.name] = _dtype(entry.type, types)
    for operation in block.operations:
        gives = tuple(_dtype(entry.type, types) for entry in operation.outputs)
        # Compressed weights have the form of operators, and are constants.
        constant = operation.type == "const" or operation.type.startswith("constexpr_")
        for entry, kind in zip(operation.outputs, gives, strict=True):
            known[entry.name] = (CONST if constant else "") + kind
        if constant:
            continue
        takes = tuple(
            CONST + _dtype(bound.value.type, types)
            if bound.WhichOneof("binding") == "value"
            else known.get(bound.name, "")
            for _, argument in sorted(operation.inputs.items())
            for bound in argument.arguments
        )
        yield OperatorKind(operation.type, takes, gives)
        for inner in operation.blocks:
            yield from _kinds(inner, known, types)


def _dtype(value_type: Any, types: Any) -> str:
    if value_type.WhichOneof("type") != "tensorType":
        return ""
    return str(types.Name(value_type.tensorType.dataType)).lower()


def read_weights(path: Path) -> Iterator[Constant]:
    """The constants in the package at `path`, compressed ones by the bits of their codes."""
    # coremltools warns, when imported, of every package that it was not tested with.
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
            given |= {entry.name: _weight_type(entry.type, types) for entry in operation.outputs}
            gives = [entry.name for entry in operation.outputs]
            for argument in operation.inputs.values():
                for bound in argument.arguments:
                    readers.setdefault(bound.name, []).append((operation.type, gives))
            if operation.type == "const" or operation.type.startswith("constexpr_"):
                constants.append(operation)
        for operation in constants:
            (output,) = operation.outputs
            shape, kind = given[output.name]
            operator = reader_of(output.name, readers, OPERATORS.after_weights)
            if operator.startswith("constexpr_"):
                continue  # The operator that decompresses it is counted.
            if operation.type == "constexpr_blockwise_shift_scale":
                data = operation.inputs["data"].arguments[0]
                own = _weight_type(data.value.type, types) if data.HasField("value") else None
                _, kind = own or given[data.name]
            elif operation.type in ("constexpr_affine_dequantize", "constexpr_lut_to_dense"):
                kind = "int8"
            yield Constant(operator, kind, shape)


def _weight_type(value_type: Any, types: Any) -> tuple[tuple[int, ...], str]:
    tensor = value_type.tensorType
    shape = tuple(each.constant.size for each in tensor.dimensions)
    return shape, types.Name(tensor.dataType).lower()
