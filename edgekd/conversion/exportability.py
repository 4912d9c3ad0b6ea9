"""Whether a network can be written as a file at all, told with the path of what is wrong in it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from edgekd.errors import ConversionError, Fault, RecipeError, listed
from edgekd.network.network import Exportable, Network, call
from edgekd.network.source_location import origin

WEIGHTS = (torch.float32, torch.float16, torch.int64, torch.int32, torch.int8, torch.uint8,
           torch.bool, torch.int16)  # fmt: skip
DTYPES = ("float32", "int64", "int32", "bool", "uint8", "int8")
"""The data types of inputs and outputs that every format has."""


def check_sound(network: Network) -> None:
    """Raises where the network is none that a file could stand for.

    Raises:
        RecipeError: weights are not finite, or of a data type that no runtime has; an input or
            output is of such a data type; or a call changes the weights, its inputs or the next
            call's outputs. All faults of the first kind that is found are told.
    """
    faults = [*_of_weights(network), *_of_signature(network)]
    if not faults:
        faults = list(_of_calls(network))
    if faults:
        raise RecipeError(*faults)


def _of_weights(network: Network) -> Iterator[Fault]:
    for name, tensor in network.module.state_dict(keep_vars=True).items():
        if tensor.dtype not in WEIGHTS:
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


def _of_signature(network: Network) -> Iterator[Fault]:
    places = {"input": network.signature.inputs, "output": network.signature.outputs}
    for role, specs in places.items():
        for spec in specs:
            if spec.dtype not in DTYPES:
                yield Fault(
                    what=f"An {role} of the network has a data type that the runtimes do not have.",
                    at=f"network, {role} {spec.name}",
                    got=spec.dtype,
                    expected=listed(DTYPES),
                    fix=f"make {spec.name} float32, and convert it inside the network if need be",
                )


def _nested(result: Any) -> Iterator[tuple[str, str]]:
    """The names and types of the parts of a call's result that hold tensors and are none."""
    parts = result._asdict() if hasattr(result, "_asdict") else result
    if isinstance(parts, list | tuple):
        parts = {f"output_{number}": part for number, part in enumerate(parts)}
    for name, part in parts.items() if isinstance(parts, Mapping) else ():
        inner = part.values() if isinstance(part, Mapping) else part
        if isinstance(part, list | tuple | Mapping) and any(
            isinstance(each, Tensor | list | tuple | Mapping) for each in inner
        ):
            yield str(name), f"a {type(part).__name__}"


def _of_calls(network: Network) -> Iterator[Fault]:
    """What two calls with the same inputs leave behind."""
    module = copy.deepcopy(network.module).cpu().eval()
    given = {name: tensor.clone() for name, tensor in network.example.items()}
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    traces: list[dict[str, list[Tensor]]] = []
    results: list[Any] = []
    module.register_forward_hook(lambda _, __, result: results.append(result))
    with torch.no_grad():
        for _ in range(2):
            inputs = {name: tensor.clone() for name, tensor in given.items()}
            outputs, changers = _traced_call(module, inputs)
            traces.append(outputs)
            for name, tensor in inputs.items():
                if name in changers or not _equal(tensor, given[name]):
                    yield Fault(
                        what="The network changes its own input.",
                        at=f"network, module {changers.get(name) or type(module).__name__}, "
                        f"input {name}",
                        got="an operator that writes to it",
                        expected="an input that is only read",
                        fix="copy it first, or use the operator without the underscore",
                    )
                    return
    nested = next(_nested(results[0]), None)
    if nested is not None:
        yield Fault(
            what="An output of the network holds tensors inside another list, tuple or dict.",
            at=f"network, output {nested[0]}",
            got=nested[1],
            expected="outputs that are tensors: a file names each",
            fix="return these tensors beside the others, in one tuple or dict",
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


def _traced_call(
    module: nn.Module, inputs: dict[str, Tensor]
) -> tuple[dict[str, list[Tensor]], dict[str, str]]:
    """The outputs of every module in it, in the order they were there, in one call; and of each
    input that an operator wrote to, whatever it wrote, the module that was at work."""
    found: dict[str, list[Tensor]] = {}
    changers: dict[str, str] = {}
    running: list[str] = []
    versions = {name: tensor._version for name, tensor in inputs.items()}

    def look() -> None:
        for name, tensor in inputs.items():
            if tensor._version != versions[name] and name not in changers:
                changers[name] = running[-1] if running else ""

    def enter(name: str) -> Any:
        def hook(_: nn.Module, __: Any) -> None:
            look()
            running.append(name)

        return hook

    def leave(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            look()
            running.pop()
            leaves = torch.utils._pytree.tree_leaves(output)
            tensors = [leaf.clone() for leaf in leaves if isinstance(leaf, Tensor)]
            found.setdefault(name, []).extend(tensors)

        return hook

    handles = []
    for name, each in module.named_modules():
        handles += [each.register_forward_pre_hook(enter(name))]
        handles += [each.register_forward_hook(leave(name))]
    try:
        call(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found, changers


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
    found = origin(seen, Exportable)
    return ConversionError(
        Fault(
            what="The network decides by its data what to compute, which no file can hold.",
            at=f"network, {found}" if found else "forward",
            got=(found and found.line) or "a branch on a tensor's value",
            expected="a forward that computes the same operators whatever the values",
            fix="use torch.where or torch.cond there, or take the branch outside the network",
        )
    )
