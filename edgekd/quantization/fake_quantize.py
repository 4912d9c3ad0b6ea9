"""Fake quantization: rounding to a quantizer's grid and back, with a gradient.

Inside the range the gradient is that of the identity, outside it is zero: the straight-through
estimator.
Source: Bengio, Léonard, Courville 2013, arXiv:1308.3432, section 4; Jacob et al. 2018,
arXiv:1712.05877, section 3.1. The rounding itself is torch's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgekd.artifacts.quantizer_rules import WeightCodes

LEVELS = 255
"""Steps of the grid of activations: uint8."""


def activation_grid(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and the zero point of a uint8 grid over `low` to `high` on which zero is exact.

    The range is widened to hold zero, and the zero point is rounded to the nearest code, so one end
    may be clipped by half a step.
    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.1; so do ONNX Runtime and LiteRT.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    step = (high - low) / LEVELS
    step = torch.where(step < torch.finfo(step.dtype).tiny, torch.ones_like(step), step)
    zero = (-low / step).round().clamp(0, LEVELS).to(torch.int32)
    return step, zero


def widened_grid(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The same, but one end is moved outwards until zero is on a code, as NNCF does.

    Source: `tune_range` in nncf/quantization/fake_quantize.py, NNCF 3.4.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    step, zero = activation_grid(low, high)
    code = zero.to(low.dtype)
    # The wider of the two steps with which one end stays, and the other is not cut.
    by_high = torch.where(code < LEVELS, high / (LEVELS - code).clamp(min=1), step)
    by_low = torch.where(code > 0, -low / code.clamp(min=1), step)
    return torch.maximum(by_high, by_low).clamp(min=torch.finfo(low.dtype).tiny), zero


def fake_activation(value: Tensor, step: Tensor, zero: Tensor) -> Tensor:
    """`value` rounded to the grid of `step` and `zero`: at most half a step off inside the range.

    If these have several values, each channel of the second axis has its own grid.
    """
    if step.ndim:
        return torch.fake_quantize_per_channel_affine(value, step, zero, 1, 0, LEVELS)
    return torch.fake_quantize_per_tensor_affine(value, step, zero, 0, LEVELS)


def fake_weight(weight: Tensor, axis: int, codes: WeightCodes) -> Tensor:
    """`weight` rounded to symmetric grids, one per channel of `axis`: at most half a step off."""
    axis %= weight.ndim
    magnitude = weight.detach().abs().amax([each for each in range(weight.ndim) if each != axis])
    magnitude = torch.maximum(magnitude, magnitude.max() * codes.least_frac)
    step = magnitude / codes.largest
    step = torch.where(step < torch.finfo(step.dtype).tiny, torch.ones_like(step), step)
    zero = torch.zeros_like(step, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, step, zero, axis, codes.low, codes.high)
