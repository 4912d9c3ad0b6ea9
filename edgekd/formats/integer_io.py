"""Integer inputs and outputs: which files have them, and with which scale and zero point.

Static int8 quantizes its inputs first and its outputs last: with integer I/O an app, a camera or an
NPU does both, or neither. Where the file's own quantizer does not state scale and zero point, they
follow from the ranges that calibration measures.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekd.artifacts.quantization_params import QuantizationParams

if TYPE_CHECKING:
    from edgekd.data import Inputs
    from edgekd.network.network import Network

IO_SCHEME = "int8"
HEADROOM = 0.125
"""Share of an output's range that is added on either side. The scale of int8 grows by a quarter,
and outputs beyond the calibrated range are not clipped: 10 dB on one small network, at worst 0.4
lost."""


def with_headroom(low: float, high: float) -> tuple[float, float]:
    """The range of an output, wider than calibration measured it; a range that is never negative
    stays so."""
    room = HEADROOM * (high - low)
    return low - room * (low < 0), high + room


def measured_ranges(
    network: Network, calibration: Sequence[Inputs]
) -> dict[str, tuple[float, float]]:
    """The smallest and largest value of each float32 input and output, by name; those of outputs
    with headroom."""
    import torch

    from edgekd.network.network import call

    module = copy.deepcopy(network.module).cpu().eval()
    seen: dict[str, list[float]] = {}
    for sample in calibration:
        with torch.no_grad():
            outputs = call(module, sample)
        for name, value in {**sample, **outputs}.items():
            if value.dtype == torch.float32:
                seen.setdefault(name, []).extend((float(value.min()), float(value.max())))
    ranges = {name: (min(values), max(values)) for name, values in seen.items()}
    for spec in network.signature.outputs:
        if spec.name in ranges:
            probabilities = spec.meaning == "probabilities"
            ranges[spec.name] = (0.0, 1.0) if probabilities else with_headroom(*ranges[spec.name])
    return ranges


def params_over(low: float, high: float, io: str) -> QuantizationParams:
    """The scale and zero point of 8-bit codes from `low` to `high`, widened until 0 has a code."""
    import numpy as np

    low, high = min(low, 0.0), max(high, 0.0)
    # As files hold it.
    scale = float(np.float32((high - low) / 255)) or 1.0
    return retyped(QuantizationParams(scale, min(255, max(0, round(-low / scale))), "uint8"), io)


def retyped(params: QuantizationParams, io: str) -> QuantizationParams:
    """`params` for codes of type `io`: those of the other signedness are 128 apart."""
    shift = {"uint8": 0, "int8": 128}
    return QuantizationParams(params.scale, params.zero_point + shift[params.dtype] - shift[io], io)
