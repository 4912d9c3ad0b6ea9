"""Registers PyTorch operators that coremltools 9.0 lacks or converts incorrectly.

Registration holds for the whole process and changes the conversion of every network, so it happens
once, at the first conversion. An operator that PyTorch's own operators can express is in
`edgekd.formats.decompositions` instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from edgekd.system.packages import need

FRONTEND = "coremltools.converters.mil.frontend.torch"


@functools.cache
def register_operators() -> None:
    """Registers the operators below with coremltools; a second call does nothing."""
    register = need(f"{FRONTEND}.torch_op_registry", extra="coreml").register_torch_op
    ops = need(f"{FRONTEND}.ops", extra="coreml")
    build = need("coremltools.converters.mil", extra="coreml").Builder
    for kind, lowering, count in (
        ("gru", ops.gru, 2),
        ("lstm", ops.lstm, 3),
        ("rnn_tanh", ops.rnn_tanh, 2),
        ("rnn_relu", ops.rnn_relu, 2),
    ):
        lowered = _as_tuple(lowering, count)
        lowered.__name__ = f"exported_{kind}"
        register(lowered, torch_alias=[f"{kind}.input"], override=True)
    for name, function in (("prelu", _prelu), ("gelu", _gelu), ("reciprocal", _reciprocal)):
        register(_named(name, function, ops, build), override=True)
    for name, function in (("celu", _celu), ("log_sigmoid", _log_sigmoid)):
        register(_named(name, function, ops, build))
    _cast_scalars(ops, build)
    _no_map_of_loops()


def _named(name: str, function: Callable[..., Any], ops: Any, build: Any) -> Callable[..., None]:
    def lowered(context: Any, node: Any) -> None:
        inputs = ops._get_inputs(context, node, min_expected=1)
        context.add(function(build, inputs, context, node))

    lowered.__name__ = name
    return lowered


def _prelu(build: Any, inputs: list[Any], context: Any, node: Any) -> Any:  # noqa: ARG001
    """PReLU of any rank: MIL's own takes different slopes in rank 4 alone."""
    x, slopes = inputs[0], inputs[1].val
    shape = (1, -1, *[1] * (x.rank - 2)) if x.rank > 1 else (-1,)
    low = build.minimum(x=x, y=np.float32(0))
    low = build.mul(x=low, y=slopes.reshape(shape).astype(np.float32))
    return build.add(x=build.relu(x=x), y=low, name=node.name)


def _gelu(build: Any, inputs: list[Any], context: Any, node: Any) -> Any:
    """GELU with its tanh approximation: in exported programs that is a keyword, which coremltools'
    own lowering does not read (coremltools#2863)."""
    mode = inputs[1].val if len(inputs) > 1 else "none"
    for value in (getattr(node, "kwinputs", None) or {}).get("approximate", ())[:1]:
        known = context[value] if isinstance(value, str) and value in context else value
        mode = known if isinstance(known, str) else known.val
    kind = "TANH_APPROXIMATION" if mode == "tanh" else "EXACT"
    return build.gelu(x=inputs[0], mode=kind, name=node.name)


def _reciprocal(build: Any, inputs: list[Any], context: Any, node: Any) -> Any:  # noqa: ARG001
    """A division: MIL's `inverse` adds 1e-4 to the denominator, which leaves 67 dB."""
    x = inputs[0] if inputs[0].is_tensor_or_scalar_of(dtype="fp") else None
    x = x or build.cast(x=inputs[0], dtype="fp32")
    return build.real_div(x=np.float32(1), y=x, name=node.name)


def _celu(build: Any, inputs: list[Any], context: Any, node: Any) -> Any:  # noqa: ARG001
    alpha = float(inputs[1].val) if len(inputs) > 1 and inputs[1] is not None else 1.0
    low = build.elu(x=build.mul(x=inputs[0], y=np.float32(1 / alpha)), alpha=alpha)
    low = build.minimum(x=low, y=np.float32(0))
    return build.add(x=build.relu(x=inputs[0]), y=low, name=node.name)


def _log_sigmoid(build: Any, inputs: list[Any], context: Any, node: Any) -> Any:  # noqa: ARG001
    soft = build.softplus(x=build.mul(x=inputs[0], y=np.float32(-1)))
    return build.mul(x=soft, y=np.float32(-1), name=node.name)


class _CollectingContext:
    """coremltools' context, which collects what a lowering adds, by the name of the output."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self.outputs: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def __getitem__(self, name: str) -> Any:
        return self._context[name]

    def __contains__(self, name: str) -> bool:
        return name in self._context

    def add(self, var: Any, torch_name: str | None = None) -> None:
        self.outputs[torch_name or var.name] = var


class _NodeWithOutputs:
    """A node of an exported program with a name for each of its outputs."""

    def __init__(self, node: Any, count: int) -> None:
        self._node = node
        self.name = node.name
        self.outputs = [f"{node.name}_{number}" for number in range(count)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)


def _as_tuple(lowering: Callable[..., None], count: int) -> Callable[..., None]:
    """coremltools' own lowering of a recurrent layer, for exported programs.

    It expects a trace, whose node has several outputs; an exported node has one, a tuple.
    """

    def lowered(context: Any, node: Any) -> None:
        collecting, several = _CollectingContext(context), _NodeWithOutputs(node, count)
        lowering(collecting, several)
        outputs = tuple(collecting.outputs[name] for name in several.outputs)
        context.add(outputs, torch_name=node.name)

    return lowered


def _cast_scalars(ops: Any, build: Any) -> None:
    """Lets `_cast` read constants of one element, which numpy 2.4 does not convert to a number."""
    original = ops._cast

    def cast(context: Any, node: Any, dtype: Any, dtype_name: str) -> Any:
        x = ops._get_inputs(context, node, expected=1)[0]
        if not x.can_be_folded_to_const() or isinstance(x.val, dtype):
            return original(context, node, dtype, dtype_name)
        value = dtype(np.asarray(x.val).item())
        return context.add(build.const(val=value, name=node.name), node.name)

    ops._cast = cast


def _no_map_of_loops() -> None:
    """Lets a program with loops be saved: coremltools writes a map for ExecuTorch's debugger beside
    every program from torch.export, and fails on the blocks of a loop, as in a GRU."""
    program = need("coremltools.converters.mil.mil.program", extra="coreml").Program
    original = program.construct_debug_handle_to_ops_mapping

    def mapped(self: Any) -> Any:
        try:
            return original(self)
        except NotImplementedError:
            return {}

    program.construct_debug_handle_to_ops_mapping = mapped
