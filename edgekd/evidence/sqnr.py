"""The signal-to-quantization-noise ratio, by one convention for all that edgekd compares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two sums of squares.

    Without noise it is inf, also where there is no signal: all is equal. With noise and without
    signal it is -inf, and so it is where either is not finite: such outputs reproduce nothing.
    JSON holds neither, so a caller that writes it caps it or writes null.
    """
    if not math.isfinite(signal) or not math.isfinite(noise):
        return -math.inf
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def sqnr_db(reference: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> float:
    """The SQNR in dB of `outputs` against `reference`, over all tensors of `reference` together:
    10 log10(sum reference^2 / sum error^2), with the limits of `decibels`."""
    signal = noise = 0.0
    for name, value in reference.items():
        expected, found = value.detach().double(), outputs[name].detach().double()
        signal += float(expected.square().sum())
        noise += float((expected - found).square().sum())
    return decibels(signal, noise)
