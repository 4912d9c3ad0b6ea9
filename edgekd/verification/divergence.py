"""Finds the layer of a network at which a saved file first diverges from it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.artifacts.artifact import Artifact
from edgekd.artifacts.scheme import SCHEMES
from edgekd.errors import ConversionError, Fault, RefusedError, listed
from edgekd.evidence.sqnr import sqnr_db
from edgekd.formats.capabilities import laid_out
from edgekd.formats.inspection import as_taken, has_tensor_reader, run_tensors, tensor_formats
from edgekd.network.network import Network, call

LARGEST = 2_000_000
"""Elements of the largest tensors that are compared: larger ones take minutes to match."""
DROP_DB = 10.0
"""How far below the layer before it a layer, and all layers after it, must fall to be the first
that diverges; the first layer is compared with the scheme's floor plus this."""
JOINED_DB = 20.0
"""How much nearer a later layer must be for a layer's tensor to be a false match, and how near a
tensor must be to be the layer's in any case."""


@dataclass(frozen=True)
class DivergingLayer:
    """A module of the network, and the tensor of the file that comes nearest to its output.

    Attributes:
        module: its path in the network.
        kind: its class.
        tensor: the file's name for the tensor; None where the file has none of this size, because
            its operators were fused with others.
        sqnr_db: the SQNR of the tensor against the output; None without a tensor.
        first: whether it is the first that diverges.
    """

    module: str
    kind: str
    tensor: str | None
    sqnr_db: float | None
    first: bool = False


def localize(
    artifact: Artifact, network: Network, sample: Mapping[str, Tensor]
) -> list[DivergingLayer]:
    """The layers of `network` in the order they run, each with what `artifact` computes for it.

    Converters choose the names of a file's tensors and runtimes the order of its axes, so a layer's
    tensor is the nearest one with as many elements, in any order of its axes.

    Args:
        sample: inputs by name, a batch of the artifact's size.

    Raises:
        RefusedError: the format's inner tensors cannot be read.
        ConversionError: its runtime does not load or run the file.
    """
    if not has_tensor_reader(artifact.format):
        raise RefusedError(
            Fault(
                what="The inner tensors of this format cannot be read.",
                at=str(artifact.path),
                got=artifact.format,
                expected=listed(tensor_formats()),
                fix="verify it without --layers",
            )
        )
    artifact = laid_out(artifact, network)
    try:
        inner = run_tensors(artifact.path, artifact.format, as_taken(artifact, sample))
    except (ValueError, RuntimeError) as error:
        raise ConversionError(
            Fault(
                what=f"The inner tensors of {artifact.path} cannot be read.",
                at=str(artifact.path),
                got=str(error).strip().partition("\n")[0] or type(error).__name__,
                expected=f"a file that {artifact.format}'s runtime loads and runs on the samples",
                fix="export it again, and give --samples of the network's inputs",
            )
        ) from error
    by_size: dict[int, list[tuple[str, Tensor]]] = {}
    for name, value in inner.items():
        by_size.setdefault(value.numel(), []).append((name, value))
    layers = [
        _nearest(path, kind, output, by_size.get(output.numel(), []))
        for path, kind, output in layer_outputs(network, sample)
    ]
    floor = SCHEMES[artifact.scheme].sqnr_floor_db if artifact.scheme else 0.0
    return _marked(_without_joined(layers), floor + DROP_DB)


def layer_outputs(network: Network, sample: Mapping[str, Tensor]) -> list[tuple[str, str, Tensor]]:
    """The path, class and output of each leaf module, in the order they run."""
    module = copy.deepcopy(network.module).cpu().eval()
    outputs: list[tuple[str, str, Tensor]] = []

    def watch(path: str, layer: nn.Module) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, Tensor) and first.is_floating_point():
                outputs.append((path, type(layer).__name__, first.detach().clone().float()))

        return layer.register_forward_hook(hook)

    for path, layer in module.named_modules():
        if path and not any(True for _ in layer.children()):
            watch(path, layer)
    with torch.no_grad():
        results = call(module, sample)
    for name, value in results.items():
        if value.is_floating_point():
            outputs.append((f"(output {name})", "", value.float()))
    return [entry for entry in outputs if entry[2].numel() <= LARGEST]


def _nearest(
    path: str, kind: str, output: Tensor, rivals: list[tuple[str, Tensor]]
) -> DivergingLayer:
    best: tuple[float, str] | None = None
    for name, value in rivals:
        near = max(_db(output, each) for each in _orders(value, output.shape))
        if best is None or near > best[0]:
            best = (near, name)
    if best is None:
        return DivergingLayer(path, kind, None, None)
    return DivergingLayer(path, kind, best[1], best[0])


def in_order_of(output: Tensor, value: Tensor) -> Tensor:
    """`value` in the order of its axes that is nearest to `output`."""
    return max(_orders(value, output.shape), key=lambda each: _db(output, each))


def _orders(value: Tensor, shape: torch.Size) -> list[Tensor]:
    """`value` in every order of its axes that gives `shape`; axes of size one are ignored."""
    wanted = [size for size in shape if size != 1]
    squeezed = value.squeeze()
    if sorted(squeezed.shape) != sorted(wanted):
        return [value.reshape(shape)]
    axes = range(squeezed.ndim)
    fitting = [
        order for order in permutations(axes) if [squeezed.shape[i] for i in order] == wanted
    ]
    return [squeezed.permute(order).reshape(shape) for order in fitting]


def _db(output: Tensor, value: Tensor) -> float:
    return sqnr_db({"": output}, {"": value})


def _without_joined(layers: list[DivergingLayer]) -> list[DivergingLayer]:
    """`layers` without the tensors of those that are far off while a later layer is near: their
    operators were fused with the next, and the file has no such tensor."""
    result = []
    for number, layer in enumerate(layers):
        after = [each.sqnr_db for each in layers[number:] if each.sqnr_db is not None]
        if layer.sqnr_db is not None and layer.sqnr_db < min(max(after) - JOINED_DB, JOINED_DB):
            layer = replace(layer, tensor=None, sqnr_db=None)
        result.append(layer)
    return result


def _marked(layers: list[DivergingLayer], expected_db: float) -> list[DivergingLayer]:
    """`layers` with a mark on the first one from which on all are far below those before it."""
    known = [layer for layer in layers if layer.sqnr_db is not None]
    reached = expected_db + DROP_DB
    for number, layer in enumerate(known):
        after = [each.sqnr_db or 0.0 for each in known[number:]]
        if max(after) < reached - DROP_DB:
            return [replace(each, first=each is layer) for each in layers]
        # Noise grows from layer to layer without any divergence.
        reached = min(reached, layer.sqnr_db or 0.0)
    return layers
