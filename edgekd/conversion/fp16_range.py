"""Finds values of a network outside the range of FP16.

Converters silently clip such weights, or write them as infinite.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.data import Inputs
from edgekd.errors import Fault, RefusedError
from edgekd.formats.capabilities import computes_fp16, stores_fp16
from edgekd.network.network import Network, call

LARGEST = float(torch.finfo(torch.float16).max)


def check_fp16_range(network: Network, format: str, scheme: str, samples: Sequence[Inputs]) -> None:
    """Raises if `network` has values that its file in `scheme` could not hold.

    Args:
        samples: inputs by name whose activations are checked, where those are float16 too.

    Raises:
        RefusedError: a weight, or the output of a layer for a sample, overflows FP16. It names all
            such weights, or the first such layer.
    """
    if not stores_fp16(format, scheme):
        return
    faults = [_weight_fault(*weight, scheme) for weight in _weights(network.module)]
    if not faults and computes_fp16(format):
        layer = _first_layer(network, samples)
        faults = [_layer_fault(*layer, scheme)] if layer is not None else []
    if faults:
        raise RefusedError(*faults)


def _weights(module: nn.Module) -> Iterator[tuple[str, float, int]]:
    """The weights that overflow FP16: name, largest magnitude, and number of such values.

    Buffers are left out: batch norm's are folded, and a mask may be minus infinity as well.
    """
    for name, weight in module.named_parameters():
        magnitudes = weight.detach().abs()
        if magnitudes.numel() and float(magnitudes.max()) > LARGEST:
            yield name, float(magnitudes.max()), int((magnitudes > LARGEST).sum())


def _first_layer(network: Network, samples: Sequence[Inputs]) -> tuple[str, float, int] | None:
    """The first layer whose output overflows FP16, its largest magnitude, and the sample number."""
    module = copy.deepcopy(network.module).cpu().eval()
    overflows: list[tuple[str, float]] = []

    def watch(path: str, kind: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            for leaf in torch.utils._pytree.tree_leaves(output):
                if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel():
                    # An infinity of the network's own, as in a mask, is an infinity in FP16 too.
                    size = float(leaf.abs().nan_to_num(nan=0.0, posinf=0.0).max())
                    if size > LARGEST:
                        overflows.append((path or kind, size))

        return hook

    for path, layer in module.named_modules():
        layer.register_forward_hook(watch(path, type(layer).__name__))
    with torch.no_grad():
        for number, sample in enumerate(samples):
            call(module, sample)
            if overflows:
                return (*overflows[0], number)
    return None


def _weight_fault(name: str, size: float, count: int, scheme: str) -> Fault:
    return Fault(
        what="A weight of the network is too large for float16.",
        at=f"network, {name}",
        got=f"{name}: {count} values over {LARGEST:g}, the largest {size:.6g}",
        expected=f"at most {LARGEST:g}, the largest number of float16",
        fix=FIX.format(scheme=scheme, what="weight"),
    )


def _layer_fault(path: str, size: float, number: int, scheme: str) -> Fault:
    return Fault(
        what="The output of a layer of the network is too large for float16.",
        at=f"network, module {path}",
        got=f"module {path}: {size:.6g} for sample {number}",
        expected=f"at most {LARGEST:g}, the largest number of float16, in every layer",
        fix=FIX.format(scheme=scheme, what="layer"),
    )


FIX = "leave {scheme} out or take bf16, or scale the {what} down and the next one up"
