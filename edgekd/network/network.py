"""A network: a torch module with names for what goes in and comes out, and where it came from."""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.artifacts.signature import DynamicDim, Signature, TensorSpec
from edgekd.data import Inputs
from edgekd.errors import Fault, RecipeError
from edgekd.network.dynamic_shapes import declared, freed, other_sizes, resized
from edgekd.network.source_location import origin


def renamed(inputs: Mapping[str, Tensor], network: Network) -> Inputs:
    """The inputs under the names that `network` has for them: its own, or else in order.

    Raises:
        RecipeError: it takes other inputs.
    """
    names = network.signature.input_names
    if set(names) == set(inputs):
        return {name: inputs[name] for name in names}
    if len(names) != len(inputs):
        raise RecipeError(
            Fault(
                what="The teacher's inputs are not the student's.",
                at="teacher.load",
                got=", ".join(names),
                expected=f"{len(inputs)} inputs: {', '.join(inputs)}",
                fix="wrap the teacher in a module that takes the student's inputs",
            )
        )
    return dict(zip(names, inputs.values(), strict=True))


def network_key(network: Network) -> dict[str, Any]:
    """What a network is, as part of the key of what is made from it."""
    return {
        "lineage": dict(network.lineage),
        "weights": network.weights_digest(),
        "signature": network.signature.to_json(),
        "torch": torch.__version__,
    }


Example = Mapping[str, Tensor] | tuple[Tensor, ...]
"""Example inputs, batch first: by name, or in the order `forward` takes them."""


@dataclass(frozen=True)
class Network:
    """A module that takes and returns named tensors.

    Attributes:
        module: in whatever mode and on whatever device its owner keeps it.
        signature: names, shapes (those of the example) and dtypes.
        example: inputs that fit the signature.
        lineage: where the module and its weights came from.
        free: sizes of inputs that may differ from call to call; None in the signature's shapes.
    """

    module: nn.Module
    signature: Signature
    example: Mapping[str, Tensor]
    lineage: Mapping[str, Any] = field(default_factory=dict)
    dynamic: tuple[DynamicDim, ...] = ()

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The named outputs for the named inputs."""
        return call(self.module, inputs)

    @property
    def parameter_count(self) -> int:
        """Trained and frozen parameters; shared ones count once."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def weights_digest(self) -> str:
        """The sha256 of all parameters and buffers, by name."""
        return weights_digest(self.module)

    def with_module(self, module: nn.Module, **lineage: Any) -> Network:
        """The same signature over another module."""
        merged = {**self.lineage, **lineage}
        return replace(self, module=module, lineage=merged)

    def like(
        self,
        module: nn.Module,
        example: Example | None = None,
        lineage: Mapping[str, Any] | None = None,
    ) -> Network:
        """Another module with this one's inputs; its outputs are found out.

        Raises:
            RecipeError: the module does not take them.
        """
        return as_network(module, example or self.example, lineage or self.lineage, self.dynamic)


def weights_digest(module: nn.Module) -> str:
    """The sha256 of all parameters and buffers of `module`, by name."""
    sha = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        values = tensor.detach().cpu().contiguous()
        sha.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        sha.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def call(
    module: nn.Module, inputs: Mapping[str, Tensor], *, names_of: nn.Module | None = None
) -> dict[str, Tensor]:
    """The outputs of `module` by name: a dict's keys, a named tuple's fields, else "output" or
    "output_0", "output_1", ...; inputs are passed by name where `forward` has these names.

    Args:
        names_of: whose `forward` has the names, where `module` is a wrapper around it.
    """
    names = _forward_names(names_of or module)
    if set(inputs) <= set(names):
        return _named(module(**inputs))
    return _named(module(*inputs.values()))


def _named(result: Any) -> dict[str, Tensor]:
    if isinstance(result, Tensor):
        return {"output": result}
    if isinstance(result, Mapping):
        return {str(name): value for name, value in result.items() if isinstance(value, Tensor)}
    if hasattr(result, "_asdict"):
        return _named(result._asdict())
    found = enumerate(result) if isinstance(result, Sequence) else ()
    return {f"output_{i}": value for i, value in found if isinstance(value, Tensor)}


def _forward_names(module: nn.Module) -> tuple[str, ...]:
    own = vars(module).get("forward")  # Some libraries put another one on the object.
    return _names_of(type(module).forward)[1:] if own is None else _names_of(own)


@functools.lru_cache(maxsize=256)
def _names_of(function: Callable[..., Any]) -> tuple[str, ...]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(function).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind in kinds)


def name_inputs(module: nn.Module, example: Example | Tensor) -> dict[str, Tensor]:
    """`example` by name: its own names, or those of the arguments of `forward`."""
    if isinstance(example, Mapping):
        return dict(example)
    tensors = (example,) if isinstance(example, Tensor) else tuple(example)
    names = list(_forward_names(module))
    if len(names) < len(tensors):
        names = [f"input_{i}" for i in range(len(tensors))] if len(tensors) > 1 else ["input"]
    return dict(zip(names, tensors, strict=False))


def as_network(
    module: nn.Module,
    example: Example | Tensor,
    lineage: Mapping[str, Any] | None = None,
    dynamic: Sequence[DynamicDim] = (),
) -> Network:
    """`module` with the signature that `example` shows; the module itself is left as it is.

    Args:
        free: sizes that may differ; they are tried.

    Raises:
        RecipeError: the module does not take the example, or not at another of the free sizes;
            it has weights without values, or returns no tensor.
    """
    named = name_inputs(module, example)
    _check_values(module, named)
    named = {name: tensor.cpu() for name, tensor in named.items()}
    declared(named, dynamic)
    others = (
        [resized(named, sizes, dynamic) for sizes in other_sizes(named, dynamic)] if dynamic else []
    )
    try:
        with torch.no_grad():
            still = copy.deepcopy(module).eval().cpu()
            outputs, *found = [call(still, each) for each in (named, *others)]
    except Exception as error:
        raise RecipeError(_misfit(module, named, error)) from error
    if not outputs:
        raise RecipeError(
            Fault(
                what="The network returns no tensor.",
                at=f"network, module {type(module).__name__}",
                got="nothing, or other things than tensors",
                expected="a tensor, or a tuple, dict or named tuple of tensors",
                fix="return the tensors that an app will read",
            )
        )
    inputs = tuple(_spec(name, tensor) for name, tensor in named.items())
    given = tuple(_spec(name, tensor) for name, tensor in outputs.items())
    for ins, outs in zip(others, found, strict=True):
        inputs = freed(inputs, {name: tensor.shape for name, tensor in ins.items()})
        given = freed(given, {name: tensor.shape for name, tensor in outs.items()})
    return Network(
        module=module,
        signature=Signature(inputs=inputs, outputs=given),
        example=named,
        lineage=lineage or {},
        dynamic=tuple(dynamic),
    )


def _check_values(module: nn.Module, example: Mapping[str, Tensor]) -> None:
    """Raises where weights or examples are shapes without values."""
    states = module.state_dict(keep_vars=True)
    held = {
        **{f"network, {name}": tensor for name, tensor in states.items()},
        **{f"example, input {name}": tensor for name, tensor in example.items()},
    }
    empty = [each for each, tensor in held.items() if getattr(tensor, "is_meta", False)]
    if empty:
        more = f"; so are {len(empty) - 1} more" if len(empty) > 1 else ""
        raise RecipeError(
            Fault(
                what="The network, or its example, is on no device.",
                at=empty[0],
                got=f"device meta: a shape without values{more}",
                expected="tensors with values",
                fix="load the weights, or make it outside torch.device('meta')",
            )
        )


def _misfit(module: nn.Module, inputs: Mapping[str, Tensor], error: Exception) -> Fault:
    floats = [tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()]
    other = next((dtype for dtype in floats if dtype is not torch.float32), None)
    convert = f"the weights are {other}: convert them first, module.float(); or " if other else ""
    return Fault(
        what="The network does not take its example inputs.",
        at=f"network, {origin(error) or type(module).__name__}",
        got=f"{type(error).__name__}: {error}",
        expected="inputs of the shapes and dtypes that `forward` takes",
        fix=f"{convert}give an example that fits, batch first; inputs given: {_shapes(inputs)}",
    )


def _spec(name: str, tensor: Tensor) -> TensorSpec:
    return TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _shapes(inputs: Mapping[str, Tensor]) -> str:
    return ", ".join(
        f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in inputs.items()
    )


class Exportable(nn.Module):
    """A copy of a network's module, in eval mode on the CPU, that takes and returns named tensors.

    What converters are given: inputs by keyword, outputs as a dict in the signature's order.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.module = copy.deepcopy(network.module).eval().cpu()
        self.names = tuple(network.signature.output_names)
        self.eval()

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        outputs = call(self.module, inputs)
        return {name: outputs[name] for name in self.names}
