"""Whether a network can be written as a file at all, told with the path of what is wrong in it."""

from __future__ import annotations

import copy
import linecache
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from edgekd.errors import ConversionError, Fault, RecipeError, listed
from edgekd.network import Exportable, Network, call

WEIGHTS = (torch.float32, torch.float16, torch.int64, torch.int32, torch.int8, torch.uint8,
           torch.bool, torch.int16)  # fmt: skip
INPUTS = ("float32", "int64", "int32", "bool", "uint8", "int8")
"""The data types that every format has."""


def check_sound(network: Network) -> None:
    """Raises where the network is none that a file could stand for.

    Raises:
        RecipeError: weights are not finite, of a data type that no runtime has, or on no device;
            an input is of such a data type; or a call changes the weights, its inputs or the next
            call's outputs. All faults of the first kind that is found are told.
    """
    faults = [*_of_weights(network), *_of_inputs(network)]
    if not faults:
        faults = list(_of_calls(network))
    if faults:
        raise RecipeError(*faults)


def _of_weights(network: Network) -> Iterator[Fault]:
    for name, tensor in network.module.state_dict(keep_vars=True).items():
        if tensor.device.type == "meta":
            yield Fault(
                what="A weight of the network is on no device.",
                at=f"network, {name}",
                got="device meta: a shape without values",
                expected="weights with values",
                fix="load the weights, or build the network outside torch.device('meta')",
            )
        elif tensor.dtype not in WEIGHTS:
            yield Fault(
                what="A weight of the network has a data type that the runtimes do not have.",
                at=f"network, {name}",
                got=str(tensor.dtype),
                expected="float32",
                fix="convert the network first: module.float()",
            )
        elif tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            yield Fault(
                what="A weight of the network is not finite.",
                at=f"network, {name}",
                got=f"{count} of {tensor.numel()} values are NaN or infinite",
                expected="finite weights",
                fix="train with a smaller learning rate, or load the right weights",
            )


def _of_inputs(network: Network) -> Iterator[Fault]:
    for spec in network.signature.inputs:
        if spec.dtype not in INPUTS:
            yield Fault(
                what="An input of the network has a data type that the runtimes do not have.",
                at=f"example, input {spec.name}",
                got=spec.dtype,
                expected=listed(INPUTS),
                fix=f"give {spec.name} as float32, and convert it inside the network if need be",
            )


def _of_calls(network: Network) -> Iterator[Fault]:
    """What two calls with the same inputs leave behind."""
    module = copy.deepcopy(network.module).cpu().eval()
    given = {name: tensor.clone() for name, tensor in network.example.items()}
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    traces: list[dict[str, list[Tensor]]] = []
    with torch.no_grad():
        for _ in range(2):
            inputs = {name: tensor.clone() for name, tensor in given.items()}
            traces.append(_traced_call(module, inputs))
            for name, tensor in inputs.items():
                if not _equal(tensor, given[name]):
                    yield Fault(
                        what="The network changes its own input.",
                        at=f"network, input {name}",
                        got="other values after the call than before",
                        expected="an input that is only read",
                        fix="copy it first, or use the operator without the underscore",
                    )
                    return
    for name, tensor in module.state_dict().items():
        if not _equal(tensor, before[name]):
            yield Fault(
                what="The network changes a buffer when it is called.",
                at=f"network, {name}",
                got="other values after two calls than before",
                expected="weights and buffers that a call in eval mode leaves as they are",
                fix="keep the state outside, as an input and an output",
            )
            return
    for name, values in traces[0].items():
        again = traces[1].get(name, [])
        if len(values) != len(again) or not all(map(_equal, values, again)):
            yield Fault(
                what="The network answers differently from call to call.",
                at=f"network, module {name or type(module).__name__}",
                got="other outputs for the same inputs, in eval mode",
                expected="outputs that follow from the inputs",
                fix="remove what draws random numbers, such as functional.dropout without "
                "training=self.training",
            )
            return


def _traced_call(module: nn.Module, inputs: dict[str, Tensor]) -> dict[str, list[Tensor]]:
    """The outputs of every module in it, in the order they were there, in one call."""
    found: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            leaves = torch.utils._pytree.tree_leaves(output)
            tensors = [leaf.clone() for leaf in leaves if isinstance(leaf, Tensor)]
            found.setdefault(name, []).extend(tensors)

        return hook

    handles = [each.register_forward_hook(keep(name)) for name, each in module.named_modules()]
    try:
        call(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _equal(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and bool(
        torch.equal(torch.nan_to_num(left), torch.nan_to_num(right))
        if left.is_floating_point()
        else torch.equal(left, right)
    )


def branching(error: BaseException) -> ConversionError | None:
    """The error to raise where `error` came of control flow that follows the data, else None."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, GuardOnDataDependentSymNode):
        seen = seen.__cause__ or seen.__context__
    if seen is None:
        return None
    place, line, path = _innermost(seen.__traceback__)
    return ConversionError(
        Fault(
            what="The network decides by its data what to compute, which no file can hold.",
            at=f"{place}, module {path}" if place else "forward",
            got=line or "a branch on a tensor's value",
            expected="a forward that computes the same operators whatever the values",
            fix="use torch.where or torch.cond there, or take the branch outside the network",
        )
    )


def _innermost(trace: TracebackType | None) -> tuple[str, str, str]:
    """The last line of the user's own modules in `trace`: its place, its text, and whose it is."""
    root: nn.Module | None = None
    found = ("", "", "")
    for frame, number in traceback.walk_tb(trace):
        owner = frame.f_locals.get("self")
        if isinstance(owner, Exportable):
            root = owner.module
        elif isinstance(owner, nn.Module) and root is not None:
            names = {id(each): name for name, each in root.named_modules()}
            if id(owner) in names and frame.f_code.co_name != "_call_impl":
                file = frame.f_code.co_filename
                text = linecache.getline(file, number).strip()
                if "/torch/nn/modules/module.py" not in file:
                    name = names[id(owner)] or type(owner).__name__
                    found = (f"{file}:{number}", text, name)
    return found
