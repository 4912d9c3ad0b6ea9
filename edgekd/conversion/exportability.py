"""Checks whether any file can represent a network, and names the part that none can."""

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
"""Data types of inputs and outputs that every format has."""


def check_sound(network: Network) -> None:
    """Raises if no file can represent `network`.

    Raises:
        RecipeError: weights are not finite, or of a data type that no runtime has; an input or
            output is of such a data type; or a call changes the weights, its inputs or the next
            call's outputs. It names all faults of weights and signature, else the first of a call.
    """
    faults = [*_weight_faults(network), *_signature_faults(network)]
    if not faults:
        faults = list(_call_faults(network))
    if faults:
        raise RecipeError(*faults)


def _weight_faults(network: Network) -> Iterator[Fault]:
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


def _signature_faults(network: Network) -> Iterator[Fault]:
    roles = {"input": network.signature.inputs, "output": network.signature.outputs}
    for role, specs in roles.items():
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
    """The names and types of a result's parts that hold tensors in another container."""
    parts = result._asdict() if hasattr(result, "_asdict") else result
    if isinstance(parts, list | tuple):
        parts = {f"output_{number}": part for number, part in enumerate(parts)}
    for name, part in parts.items() if isinstance(parts, Mapping) else ():
        inner = part.values() if isinstance(part, Mapping) else part
        if isinstance(part, list | tuple | Mapping) and any(
            isinstance(value, Tensor | list | tuple | Mapping) for value in inner
        ):
            yield str(name), f"a {type(part).__name__}"


def _call_faults(network: Network) -> Iterator[Fault]:
    """The first fault that two calls with the same inputs show."""
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
            expected="outputs that are tensors: a file names every one",
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
                what="The network's output is not deterministic.",
                at=f"network, module {name or type(module).__name__}",
                got="other outputs for the same inputs, in eval mode",
                expected="outputs that the inputs determine",
                fix="remove random operators, such as functional.dropout without "
                "training=self.training",
            )
            return


def _traced_call(
    module: nn.Module, inputs: dict[str, Tensor]
) -> tuple[dict[str, list[Tensor]], dict[str, str]]:
    """The outputs of every module in one call, in order; and the module that was running when an
    operator wrote to an input, by input."""
    outputs: dict[str, list[Tensor]] = {}
    changers: dict[str, str] = {}
    running: list[str] = []
    versions = {name: tensor._version for name, tensor in inputs.items()}

    def note_changes() -> None:
        for name, tensor in inputs.items():
            if tensor._version != versions[name] and name not in changers:
                changers[name] = running[-1] if running else ""

    def enter(name: str) -> Any:
        def hook(_: nn.Module, __: Any) -> None:
            note_changes()
            running.append(name)

        return hook

    def leave(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            note_changes()
            running.pop()
            leaves = torch.utils._pytree.tree_leaves(output)
            tensors = [leaf.clone() for leaf in leaves if isinstance(leaf, Tensor)]
            outputs.setdefault(name, []).extend(tensors)

        return hook

    handles = []
    for name, inner in module.named_modules():
        handles += [inner.register_forward_pre_hook(enter(name))]
        handles += [inner.register_forward_hook(leave(name))]
    try:
        call(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return outputs, changers


def _equal(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and bool(
        torch.equal(torch.nan_to_num(left), torch.nan_to_num(right))
        if left.is_floating_point()
        else torch.equal(left, right)
    )


def branching(error: BaseException) -> ConversionError | None:
    """The error to raise if the cause of `error` is data-dependent control flow, else None."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, GuardOnDataDependentSymNode):
        seen = seen.__cause__ or seen.__context__
    if seen is None:
        return None
    location = origin(seen, Exportable)
    return ConversionError(
        Fault(
            what="The network has data-dependent control flow, which no file can represent.",
            at=f"network, {location}" if location else "forward",
            got=(location and location.line) or "a branch on a tensor's value",
            expected="a forward that computes the same operators whatever the values",
            fix="use torch.where or torch.cond there, or take the branch outside the network",
        )
    )
