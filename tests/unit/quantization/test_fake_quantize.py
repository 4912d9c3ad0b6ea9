"""Fake quantization: a grid is what the formats' quantizers make, and gradients pass inside it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from edgekd.artifacts.quantizer_rules import FULL_RANGE, WeightCodes
from edgekd.formats.capabilities import simulated_formats, simulated_methods
from edgekd.quantization.fake_quantize import (
    LEVELS,
    activation_grid,
    fake_activation,
    fake_weight,
    widened_grid,
)

Make = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
GRIDS = [activation_grid, widened_grid]
RANGES = [(-1.0, 3.0), (0.0, 6.0), (-5.0, 0.0), (2.0, 4.0), (-1e-3, 10.0), (0.0, 0.0)]
CODES = sorted(
    {
        (rules.codes.low, rules.codes.high, rules.codes.largest)
        for format in simulated_formats()
        for rules in simulated_methods(format).values()
    }
)


def grid_over(make: Make, low: float, high: float) -> tuple[Tensor, Tensor]:
    return make(torch.tensor(low), torch.tensor(high))


@pytest.mark.parametrize("make", GRIDS)
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_what_is_on_the_grid_stays_and_zero_is_on_it(make: Make, low: float, high: float) -> None:
    grid = grid_over(make, low, high)
    values = torch.linspace(low - 1, high + 1, 997)
    once = fake_activation(values, *grid)
    assert torch.equal(fake_activation(once, *grid), once)
    assert fake_activation(torch.zeros(1), *grid).item() == 0.0
    assert len(once.unique()) <= LEVELS + 1


@pytest.mark.parametrize("make", GRIDS)
@pytest.mark.parametrize(("low", "high"), RANGES[:5])
def test_a_value_inside_is_off_by_half_a_step_at_most(make: Make, low: float, high: float) -> None:
    step, zero = grid_over(make, low, high)
    ends = (-zero * step, (LEVELS - zero) * step)
    values = torch.linspace(float(ends[0]), float(ends[1]), 997)
    error = (fake_activation(values, step, zero) - values).abs().max()
    assert error <= step / 2 * (1 + 1e-3)
    # The range itself is cut by half a step at one end, or not at all: an end with no code to move
    # to, which is as near to zero, is cut either way.
    cut = max(float(ends[0]) - min(low, 0), max(high, 0) - float(ends[1]), 0.0)
    moved = make is widened_grid and 0 < zero < LEVELS
    assert cut <= (step * 1e-3 if moved else step / 2)


def test_a_gradient_passes_inside_the_range_and_not_outside() -> None:
    values = torch.tensor([-2.0, -0.9, 0.3, 2.9, 4.0], requires_grad=True)
    fake_activation(values, *grid_over(activation_grid, -1.0, 3.0)).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("codes", CODES, ids=str)
@pytest.mark.parametrize("axis", [0, 1])
def test_each_channel_of_a_weight_has_its_own_grid(
    codes: tuple[int, int, float], axis: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 6, 3, generator=generator) * 10.0 ** torch.arange(-3, 3).view(1, 6, 1)
    known = WeightCodes(*codes)
    rounded = fake_weight(weight, axis, known)
    others = [each for each in range(3) if each != axis]
    step = weight.abs().amax(others, keepdim=True) / known.largest
    # The largest weight of a channel may lie half a step beyond the last code.
    assert ((rounded - weight).abs() <= step * 0.5 * (1 + 1e-3)).all()
    found = rounded / step
    assert torch.allclose(found, found.round(), atol=1e-3)


def test_the_gradient_of_a_weight_passes_and_a_channel_of_zeros_stays() -> None:
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    weight[2] = 0.0
    weight.requires_grad_(True)
    rounded = fake_weight(weight, 0, FULL_RANGE)
    assert rounded[2].tolist() == [0.0] * 3
    rounded.sum().backward()
    assert weight.grad is not None
    assert weight.grad.eq(1).all()
