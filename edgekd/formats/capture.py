"""Export paths from a network to a converter, tried in order, the best first."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

    from edgekd.network.network import Exportable, Network

Result = TypeVar("Result")


def exported(network: Network) -> Any:
    """The network's `torch.export.ExportedProgram`.

    A failure here is the network's, not a converter's, so no other export path is tried: a trace
    would silently freeze the branch that the example takes.
    """
    import torch

    from edgekd.network.dynamic_shapes import resized, size_of
    from edgekd.network.exported_program import Program
    from edgekd.network.network import Exportable

    module = network.module
    if isinstance(module, Program) and module.has(network.signature):
        return copy.deepcopy(module.exported)
    # torch.export takes a size of one for a constant.
    wide = {dim.name: 2 for dim in network.dynamic if size_of(dim, network.example) < 2}
    example = resized(network.example, wide, network.dynamic)
    dims: dict[str, dict[int, Any]] = {name: {} for name in example}
    for dim in network.dynamic:
        symbol = torch.export.Dim(dim.name, min=dim.least, max=dim.most)
        for name, axis in dim.axes.items():
            dims[name][axis] = symbol
    if not network.dynamic:
        return torch.export.export(Exportable(network), (), example, strict=False)
    module = _with_names(Exportable(network), list(example))
    return torch.export.export(module, (), example, dynamic_shapes=dims, strict=False)


def _with_names(module: Exportable, names: Sequence[str]) -> Exportable:
    """`module` with arguments of these names: torch 2.13 does not find the ranges of dynamic
    dimensions among **keywords."""
    forward = module.forward

    @functools.wraps(forward)
    def named(**inputs: Any) -> Any:
        return forward(**inputs)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in names]
    named.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    module.forward = named  # type: ignore[method-assign]
    return module


def export_dynamic_or_static(network: Network) -> Any:
    """The exported program, or the error if torch.export takes dynamic dimensions for constants, as
    it does in recurrent layers: another export path may succeed."""
    import torch

    try:
        return exported(network)
    except (torch._dynamo.exc.UserError, ValueError) as error:
        if not network.dynamic:
            raise
        return error


def traced(network: Network) -> Any:
    """The network as TorchScript. torch.export has seen its control flow, if any, before."""
    from edgekd.network.network import Exportable

    return trace_module(Exportable(network), network)


def trace_module(module: torch.nn.Module, network: Network) -> Any:
    """`module`, which takes and gives the tensors of `network` by name, as TorchScript."""
    import torch

    names = network.signature.input_names

    class InOrder(torch.nn.Module):
        """Takes and returns tensors in order, as traces do."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self.module(**dict(zip(names, tensors, strict=True))).values())

    example = tuple(network.example[name] for name in names)
    return torch.jit.trace(InOrder(), example, check_trace=False)


def first_successful(paths: Mapping[str, Callable[[], Result]]) -> tuple[Result, str]:
    """The result of the first of `paths` that succeeds, and a note unless that is the first of all.

    Raises:
        Exception: all fail; what the first one raised, with notes on the others.
    """
    failures: dict[str, Exception] = {}
    for name, path in paths.items():
        try:
            result = path()
        except Exception as error:  # noqa: BLE001  converters raise anything; none is swallowed
            failures[name] = error
            continue
        notes = [f"{failed} failed ({_line(error)})" for failed, error in failures.items()]
        return result, f"; by {name}: {', '.join(notes)}" if notes else ""
    (_, first), *others = failures.items()
    for name, failure in others:
        first.add_note(f"by {name} it failed too: {_line(failure)}")
    raise first


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
