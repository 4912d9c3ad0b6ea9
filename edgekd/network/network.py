"""A network: a torch module with a signature of named inputs and outputs, and its lineage."""

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
from edgekd.network.dynamic_shapes import (
    check_dynamic_dims,
    other_sizes,
    resized,
    with_dynamic_dims,
)
from edgekd.network.source_location import origin


def renamed(inputs: Mapping[str, Tensor], network: Network) -> Inputs:
    """The inputs under the input names of `network`: the same names, or else in the same order.

    Raises:
        RecipeError: the network takes a different number of inputs.
    """
    names = network.signature.input_names
    if set(names) == set(inputs):
        return {name: inputs[name] for name in names}
    if len(names) != len(inputs):
        raise RecipeError(
            Fault(
                what="The teacher's inputs differ from the student's.",
                at="teacher.load",
                got=", ".join(names),
                expected=f"{len(inputs)} inputs: {', '.join(inputs)}",
                fix="wrap the teacher in a module that takes the student's inputs",
            )
        )
    return dict(zip(names, inputs.values(), strict=True))


def network_key(network: Network) -> dict[str, Any]:
    """The identity of a network, as part of the key of what is made from it."""
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
        module: the torch module; its owner decides its mode and device.
        signature: names, dtypes, and shapes as in the example; dynamic dimensions are None.
        example: inputs that fit the signature.
        lineage: where the module and its weights came from.
        dynamic: the dynamic dimensions of the inputs.
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
        """Another module with the same inputs; its outputs are taken from a call.

        Raises:
            RecipeError: the module does not accept them.
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
    """The outputs of `module` by name: the keys of a dict, the fields of a named tuple, or else
    "output", or "output_0", "output_1", ... Inputs are passed by name if `forward` has the names.

    Args:
        names_of: the module whose `forward` has the names, if `module` is a wrapper around it.
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
    values = enumerate(result) if isinstance(result, Sequence) else ()
    return {f"output_{i}": value for i, value in values if isinstance(value, Tensor)}


def _forward_names(module: nn.Module) -> tuple[str, ...]:
    own = vars(module).get("forward")  # Some libraries set another one on the object.
    return _names_of(type(module).forward)[1:] if own is None else _names_of(own)


@functools.lru_cache(maxsize=256)
def _names_of(function: Callable[..., Any]) -> tuple[str, ...]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(function).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind in kinds)


def name_inputs(module: nn.Module, example: Example | Tensor) -> dict[str, Tensor]:
    """`example` by name: its own names, or the argument names of `forward`."""
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
    """`module` with the signature of a call with `example`; the module is not changed.

    Args:
        dynamic: the dynamic dimensions; the module is called at other sizes of them too.

    Raises:
        RecipeError: the module does not accept the example, or another size of a dynamic
            dimension; it has weights without values, or returns no tensor.
    """
    named = name_inputs(module, example)
    _check_values(module, named)
    named = {name: tensor.cpu() for name, tensor in named.items()}
    check_dynamic_dims(named, dynamic)
    others = (
        [resized(named, sizes, dynamic) for sizes in other_sizes(named, dynamic)] if dynamic else []
    )
    try:
        with torch.no_grad():
            copied = copy.deepcopy(module).eval().cpu()
            outputs, *other_outputs = [call(copied, sample) for sample in (named, *others)]
    except Exception as error:
        raise RecipeError(_misfit(module, named, error)) from error
    if not outputs:
        raise RecipeError(
            Fault(
                what="The network returns no tensor.",
                at=f"network, module {type(module).__name__}",
                got="no output, or outputs that are not tensors",
                expected="a tensor, or a tuple, dict or named tuple of tensors",
                fix="return the tensors that an app will read",
            )
        )
    inputs = tuple(_spec(name, tensor) for name, tensor in named.items())
    results = tuple(_spec(name, tensor) for name, tensor in outputs.items())
    for sample, result in zip(others, other_outputs, strict=True):
        inputs = with_dynamic_dims(inputs, {name: value.shape for name, value in sample.items()})
        results = with_dynamic_dims(results, {name: value.shape for name, value in result.items()})
    return Network(
        module=module,
        signature=Signature(inputs=inputs, outputs=results),
        example=named,
        lineage=lineage or {},
        dynamic=tuple(dynamic),
    )


def _check_values(module: nn.Module, example: Mapping[str, Tensor]) -> None:
    """Raises a RecipeError if weights or examples are on the meta device, without values."""
    states = module.state_dict(keep_vars=True)
    tensors = {
        **{f"network, {name}": tensor for name, tensor in states.items()},
        **{f"example, input {name}": tensor for name, tensor in example.items()},
    }
    empty = [name for name, tensor in tensors.items() if getattr(tensor, "is_meta", False)]
    if empty:
        more = f"; so are {len(empty) - 1} more" if len(empty) > 1 else ""
        raise RecipeError(
            Fault(
                what="The network or its example has no values.",
                at=empty[0],
                got=f"device meta: a shape without values{more}",
                expected="tensors with values",
                fix="load the weights, or create it outside torch.device('meta')",
            )
        )


def _misfit(module: nn.Module, inputs: Mapping[str, Tensor], error: Exception) -> Fault:
    floats = [tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()]
    other = next((dtype for dtype in floats if dtype is not torch.float32), None)
    convert = f"the weights are {other}: convert them first, module.float(); or " if other else ""
    return Fault(
        what="The network does not accept its example inputs.",
        at=f"network, {origin(error) or type(module).__name__}",
        got=f"{type(error).__name__}: {error}",
        expected="inputs of the shapes and dtypes that `forward` accepts",
        fix=f"{convert}give an example that fits, batch first; inputs given: {_shapes(inputs)}",
    )


def _spec(name: str, tensor: Tensor) -> TensorSpec:
    return TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _shapes(inputs: Mapping[str, Tensor]) -> str:
    return ", ".join(
        f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in inputs.items()
    )


class Exportable(nn.Module):
    """A copy of a network's module for converters, in eval mode on the CPU.

    It takes inputs by keyword and returns outputs as a dict in the signature's order.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.module = copy.deepcopy(network.module).eval().cpu()
        self.names = tuple(network.signature.output_names)
        self.eval()

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        outputs = call(self.module, inputs)
        return {name: outputs[name] for name in self.names}
