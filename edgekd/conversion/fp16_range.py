"""Numbers of a network that float16 has not: a file in half precision would hold infinities.

Converters cut such weights off, or write them as infinite, and say nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.data import Inputs
from edgekd.errors import Fault, RefusedError
from edgekd.network.network import Network, call

LARGEST = 65504.0
"""The largest finite number of IEEE 754 binary16."""


COMPUTED = ("onnx", "coreml", "ncnn")
"""Formats whose files compute in float16 where their weights are; the others widen those first."""


def stores_fp16(format: str, scheme: str) -> bool:
    """Whether a file of `format` in `scheme` holds numbers in float16."""
    return scheme == "fp16" or (format == "coreml" and scheme != "fp32")


def check_fp16_range(network: Network, format: str, scheme: str, samples: Sequence[Inputs]) -> None:
    """Raises where `network` has numbers that its file in half precision could not hold.

    Args:
        samples: inputs by name on which activations are looked at, where they are in half too.

    Raises:
        RefusedError: a weight, or what a layer gives for a sample, is beyond float16; all such
            weights are told, or the first such layer.
    """
    if not stores_fp16(format, scheme):
        return
    faults = [_of_weight(*weight, scheme) for weight in _weights(network.module)]
    if not faults and format in COMPUTED:
        layer = _first_layer(network, samples)
        faults = [_of_layer(*layer, scheme)] if layer is not None else []
    if faults:
        raise RefusedError(*faults)


def _weights(module: nn.Module) -> Iterator[tuple[str, float, int]]:
    """Of each weight beyond float16 its name, its largest size, and how many values are.

    Buffers are left out: batch norm's are folded, and masks are as good at minus infinity.
    """
    for name, weight in module.named_parameters():
        sizes = weight.detach().abs()
        if sizes.numel() and float(sizes.max()) > LARGEST:
            yield name, float(sizes.max()), int((sizes > LARGEST).sum())


def _first_layer(network: Network, samples: Sequence[Inputs]) -> tuple[str, float, int] | None:
    """The first layer to give a number beyond float16, that number, and for which sample."""
    module = copy.deepcopy(network.module).cpu().eval()
    found: list[tuple[str, float]] = []

    def look(path: str, kind: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            for leaf in torch.utils._pytree.tree_leaves(output):
                if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel():
                    # An infinity of the network's own, as in a mask, is one in float16 too.
                    size = float(leaf.abs().nan_to_num(nan=0.0, posinf=0.0).max())
                    if size > LARGEST:
                        found.append((path or kind, size))

        return hook

    for path, layer in module.named_modules():
        layer.register_forward_hook(look(path, type(layer).__name__))
    with torch.no_grad():
        for number, sample in enumerate(samples):
            call(module, sample)
            if found:
                return (*found[0], number)
    return None


def _of_weight(name: str, size: float, count: int, scheme: str) -> Fault:
    return Fault(
        what="A weight of the network is too large for float16.",
        at=f"network, {name}",
        got=f"{name}: {count} values over {LARGEST:g}, the largest {size:.6g}",
        expected=f"at most {LARGEST:g}, the largest number of float16",
        fix=FIX.format(scheme=scheme, what="weight"),
    )


def _of_layer(path: str, size: float, number: int, scheme: str) -> Fault:
    return Fault(
        what="A layer of the network gives numbers too large for float16.",
        at=f"network, module {path}",
        got=f"module {path}: {size:.6g} for sample {number}",
        expected=f"at most {LARGEST:g}, the largest number of float16, in every layer",
        fix=FIX.format(scheme=scheme, what="layer"),
    )


FIX = "leave {scheme} out or take bf16, or scale the {what} down and the next one up"
