"""A Core ML program read from its package, and computed operator by operator."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgekd.errors import listed
from edgekd.formats.coreml.mil import compressed, elementwise, images, layers, recurrent, shapes
from edgekd.formats.coreml.mil.values import Weights, decode
from edgekd.formats.reference import UnknownOperatorError
from edgekd.system.output import output_to
from edgekd.system.packages import need

MODEL = Path("Data") / "com.apple.CoreML" / "model.mlmodel"
"""Where coremltools puts the program in a package."""

OPERATORS: dict[str, Callable[..., Any]] = {
    **compressed.OPERATORS,
    **elementwise.OPERATORS,
    **images.OPERATORS,
    **layers.OPERATORS,
    **recurrent.OPERATORS,
    **shapes.OPERATORS,
}
CONTROL = ("cond", "while_loop")
NAMING = "classify"
"""Gives no tensor: the likeliest class by its name. It and its outputs are left out."""

VARIADIC = ("values", "loop_vars")
"""Arguments that are a tuple even of one."""

FLOATS = {"FLOAT16": torch.float16, "FLOAT32": torch.float32, "FLOAT64": torch.float64}
INTEGERS = {
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "UINT8": torch.uint8,
    "UINT16": torch.int32,  # torch has few operators on them, so they are kept in a wider one
    "UINT32": torch.int64,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Step:
    """One operator: where its inputs come from, and what its outputs are called and declared."""

    operator: str
    inputs: Mapping[str, Any]
    outputs: tuple[tuple[str, torch.dtype | None], ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Block:
    """Steps in order, the names of what goes in, and what comes out."""

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Any, ...]


@dataclass(frozen=True)
class Named:
    """A value that is not constant: what an earlier step called so."""

    name: str


@dataclass(frozen=True)
class Program:
    """A program that can be called with its inputs by name.

    Attributes:
        inputs: data type by name, as "float32", "float16" or "int32".
        outputs: names, in order.
        operators: how many of each; constants are not counted.
        half: whether any operator but casts computes in float16.
    """

    inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    operators: Mapping[str, int]
    half: bool
    body: Block

    def __call__(
        self, inputs: Mapping[str, Tensor], *, kept: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The outputs by name. What is declared float16 is rounded to it after every operator.

        Args:
            kept: is given every tensor by name, in order; those inside of loops are not.

        Raises:
            ValueError: the inputs are not the program's.
        """
        if set(inputs) != set(self.inputs):
            raise ValueError(f"it takes the inputs {listed(self.inputs)}, not {listed(inputs)}")
        given = {name: inputs[name].to(getattr(torch, kind)) for name, kind in self.inputs.items()}
        with torch.no_grad():
            found = _computed(self.body, given, kept)
        return dict(zip(self.outputs, found, strict=True))


def load_program(path: Path) -> Program:
    """The program in the package at `path`.

    Raises:
        UnknownOperatorError: it has operators that are not computed here; all are named.
        ValueError: it is no ML program, or its weight file is not whole.
        OSError: a file of it is missing.
        MissingPackageError: coremltools, whose protocol buffers it is read with, is not installed.
    """
    with output_to(Path(os.devnull)):
        proto = need("coremltools.proto", extra="coreml")
    model = proto.Model_pb2.Model()
    malformed: type[Exception] = need("google.protobuf.message", extra="coreml").DecodeError
    try:
        model.ParseFromString((path / MODEL).read_bytes())
    except malformed as error:
        raise ValueError(f"{MODEL.name} cannot be read: {error}") from error
    if model.WhichOneof("Type") != "mlProgram":
        raise ValueError(f"{path.name} is no ML program but {model.WhichOneof('Type')}")
    function = model.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    weights = Weights(path / MODEL.parent)
    reader = _Reader(weights, proto.MIL_pb2.DataType)
    constants: dict[str, Any] = {}
    body = reader.block(block, [entry.name for entry in function.inputs], constants)
    if reader.unknown:
        raise UnknownOperatorError(sorted(reader.unknown))
    kinds = {entry.name: reader.type_name(entry.type) for entry in function.inputs}
    return Program(
        inputs={name: _INPUTS[kind] for name, kind in kinds.items()},
        outputs=tuple(name for name in block.outputs if name not in reader.named),
        operators=dict(sorted(reader.counts.items())),
        half=reader.half,
        body=body,
    )


_INPUTS = {"FLOAT32": "float32", "FLOAT16": "float16", "INT32": "int32", "INT8": "int8"}


class _Reader:
    """Makes steps of a program's operations; constants are computed as they are met."""

    def __init__(self, weights: Weights, data_types: Any) -> None:
        self.weights = weights
        self.data_types = data_types
        self.counts: Counter[str] = Counter()
        self.unknown: set[str] = set()
        self.named: set[str] = set()
        self.half = False

    def type_name(self, value_type: Any) -> str:
        """The name of a tensor's data type; empty for what is no tensor."""
        if value_type.WhichOneof("type") != "tensorType":
            return ""
        return str(self.data_types.Name(value_type.tensorType.dataType))

    def block(self, block: Any, inputs: list[str], constants: dict[str, Any]) -> Block:
        """The steps of `block`; `constants` are those around it, and get its own too."""
        steps = []
        for operation in block.operations:
            if operation.type == NAMING:
                self.named |= {entry.name for entry in operation.outputs}
                continue
            step = self.step(operation, constants)
            if operation.type == "const":
                constants[step.outputs[0][0]] = step.inputs["val"]
                continue
            if operation.type.startswith("constexpr_") and operation.type in OPERATORS:
                constants.update(_results(step, _applied(step, dict(constants))))
                continue
            self.counts[operation.type] += 1
            if operation.type not in OPERATORS and operation.type not in CONTROL:
                self.unknown.add(operation.type)
            halves = any(kind is torch.float16 for _, kind in step.outputs)
            self.half = self.half or (halves and operation.type != "cast")
            steps.append(step)
        outputs = tuple(
            self.known(name, constants) for name in block.outputs if name not in self.named
        )
        return Block(tuple(inputs), tuple(steps), outputs)

    def step(self, operation: Any, constants: dict[str, Any]) -> Step:
        given = {
            name: decode(value, self.weights, self.data_types)
            for name, value in operation.attributes.items()
            if name != "name"
        }
        for name, argument in operation.inputs.items():
            bound = tuple(self.bound(binding, constants) for binding in argument.arguments)
            single = len(bound) == 1 and name not in VARIADIC
            given[name] = bound[0] if single else bound
        outputs = tuple(
            (entry.name, ({**FLOATS, **INTEGERS}).get(self.type_name(entry.type)))
            for entry in operation.outputs
        )
        blocks = tuple(
            self.block(block, [entry.name for entry in block.inputs], dict(constants))
            for block in operation.blocks
        )
        return Step(operation.type, given, outputs, blocks)

    def bound(self, binding: Any, constants: dict[str, Any]) -> Any:
        if binding.WhichOneof("binding") == "value":
            return decode(binding.value, self.weights, self.data_types)
        return self.known(binding.name, constants)

    def known(self, name: str, constants: dict[str, Any]) -> Any:
        return constants[name] if name in constants else Named(name)


def _computed(
    block: Block, values: dict[str, Any], kept: dict[str, Tensor] | None = None
) -> list[Any]:
    """The outputs of `block`; `values` is what it can see by name, `kept` gets what it makes."""
    seen = dict(values)
    for step in block.steps:
        made = _results(step, _applied(step, seen))
        seen.update(made)
        if kept is not None:
            kept |= {name: value for name, value in made.items() if isinstance(value, Tensor)}
    return [_found(value, seen) for value in block.outputs]


def _applied(step: Step, seen: Mapping[str, Any]) -> Any:
    inputs = {name: _found(value, seen) for name, value in step.inputs.items()}
    if step.operator == "cond":
        chosen = step.blocks[0 if bool(inputs["pred"]) else 1]
        return tuple(_computed(chosen, dict(seen)))
    if step.operator == "while_loop":
        state = list(inputs["loop_vars"])
        test, body = step.blocks
        while bool(_computed(test, {**seen, **dict(zip(test.inputs, state, strict=True))})[0]):
            state = _computed(body, {**seen, **dict(zip(body.inputs, state, strict=True))})
        return tuple(state)
    wide = {name: _widened(value) for name, value in inputs.items()}
    try:
        return OPERATORS[step.operator](**wide)
    except (TypeError, RuntimeError, IndexError, KeyError) as error:
        raise ValueError(f"{step.operator} of {step.outputs[0][0]}: {error}") from error


def _found(value: Any, seen: Mapping[str, Any]) -> Any:
    if isinstance(value, Named):
        return seen[value.name]
    if isinstance(value, tuple):
        return tuple(_found(entry, seen) for entry in value)
    return value


def _widened(value: Any) -> Any:
    """A value of float16 or of an integer type, in a type that torch computes in."""
    if isinstance(value, Tensor):
        if value.dtype is torch.float16:
            return value.float()
        if not value.is_floating_point() and value.dtype is not torch.bool:
            return value.long()
    if isinstance(value, tuple):
        return tuple(_widened(entry) for entry in value)
    return value


def _results(step: Step, made: Any) -> dict[str, Any]:
    """What a step's outputs are called, in the data types they are declared in."""
    values = made if isinstance(made, tuple) else (made,)
    return {
        name: value.to(kind) if kind is not None and isinstance(value, Tensor) else value
        for (name, kind), value in zip(step.outputs, values, strict=True)
    }
