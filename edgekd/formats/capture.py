"""Ways from a network to a converter, tried in order, the best first."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from edgekd.network.network import Exportable, Network

Made = TypeVar("Made")


def exported(network: Network) -> Any:
    """The network's `torch.export.ExportedProgram`.

    Its failure is the network's, not a converter's, so no other way is tried: a trace would freeze
    the branch that the example takes, and say nothing.
    """
    import torch

    from edgekd.network.dynamic_shapes import resized, size_of
    from edgekd.network.exported_program import Program
    from edgekd.network.network import Exportable

    module = network.module
    if isinstance(module, Program) and module.has(network.signature):
        return copy.deepcopy(module.exported)
    # A size of one would be taken for a constant.
    wide = {each.name: 2 for each in network.dynamic if size_of(each, network.example) < 2}
    example = resized(network.example, wide, network.dynamic)
    dims: dict[str, dict[int, Any]] = {name: {} for name in example}
    for each in network.dynamic:
        dim = torch.export.Dim(each.name, min=each.least, max=each.most)
        for name, axis in each.axes.items():
            dims[name][axis] = dim
    if not network.dynamic:
        return torch.export.export(Exportable(network), (), example, strict=False)
    module = _with_names(Exportable(network), list(example))
    return torch.export.export(module, (), example, dynamic_shapes=dims, strict=False)


def _with_names(module: Exportable, names: Sequence[str]) -> Exportable:
    """`module` with arguments of these names: torch 2.13 loses its way among **keywords where it
    looks for the ranges of free sizes."""
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
    """The exported program; of a network with free sizes that torch.export takes for constants, as
    of recurrent layers, the error, which a way that does without may get round."""
    import torch

    try:
        return exported(network)
    except (torch._dynamo.exc.UserError, ValueError) as error:
        if not network.dynamic:
            raise
        return error


def traced(network: Network) -> Any:
    """The network as TorchScript. Its control flow, if any, was seen by torch.export already."""
    import torch

    from edgekd.network.network import Exportable

    module, names = Exportable(network), network.signature.input_names

    class InOrder(torch.nn.Module):
        """Takes and returns tensors in order, as traces do."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self.module(**dict(zip(names, tensors, strict=True))).values())

    example = tuple(network.example[name] for name in names)
    return torch.jit.trace(InOrder(), example, check_trace=False)


def first_successful(ways: Mapping[str, Callable[[], Made]]) -> tuple[Made, str]:
    """What the first of `ways` that works makes, and a note that says so unless it is the first.

    Raises:
        Exception: none works; what the first one raised, with notes on the others.
    """
    failures: dict[str, Exception] = {}
    for name, way in ways.items():
        try:
            made = way()
        except Exception as error:  # noqa: BLE001  converters raise anything; none is swallowed
            failures[name] = error
            continue
        told = [f"{failed} failed ({_line(error)})" for failed, error in failures.items()]
        return made, f"; by {name}: {', '.join(told)}" if told else ""
    (_, first), *others = failures.items()
    for name, failure in others:
        first.add_note(f"by {name} it failed too: {_line(failure)}")
    raise first


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
