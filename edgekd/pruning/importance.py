"""Measures of the importance of a channel, over all layers that depend on it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

IMPORTANCES: dict[str, Callable[[Any], Any]] = {
    # Li et al. 2017, arXiv:1608.08710.
    "l1": lambda pruning: pruning.importance.GroupMagnitudeImportance(p=1),
    # Fang et al. 2023, arXiv:2301.12900, section 3.3, without its training.
    "l2": lambda pruning: pruning.importance.GroupMagnitudeImportance(p=2),
    # Liu et al. 2017, arXiv:1708.06519.
    "bn-scale": lambda pruning: pruning.importance.BNScaleImportance(),
    # Molchanov et al. 2019, arXiv:1906.10771: weight times gradient.
    "taylor": lambda pruning: pruning.importance.GroupTaylorImportance(),
    # LeCun, Denker, Solla 1989, Optimal Brain Damage, the curvature from squared gradients.
    "hessian": lambda pruning: pruning.importance.GroupHessianImportance(),
    "random": lambda pruning: pruning.importance.RandomImportance(),
}
"""Torch-Pruning's measures by name. `random` is the baseline that a good one must beat."""

GRADIENTS: dict[str, Literal["mean", "squared"]] = {"taylor": "mean", "hessian": "squared"}
"""Importances that need gradients of the loss: their mean, or the mean of their squares."""


def gradients_of(
    module: nn.Module, losses_of: Callable[[nn.Module], Iterable[Tensor]], *, squared: bool = False
) -> dict[str, Tensor]:
    """The mean gradient of each parameter, by name.

    Args:
        losses_of: yields the losses of a module on some batches; on single samples if `squared`.
        squared: whether to average the squared gradients instead, the diagonal of the empirical
            Fisher information.
    """
    module = copy.deepcopy(module).eval()
    parameters = dict(module.named_parameters())
    sums = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    count = 0
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    for loss in losses_of(module):
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                sums[name] += gradient**2 if squared else gradient
        count += 1
    return {name: (total / max(1, count)).cpu() for name, total in sums.items()}


def weight_importance(
    importance: str, weight: Tensor, gradient: Tensor | None, generator: torch.Generator
) -> Tensor:
    """The importance of each single weight, without Torch-Pruning."""
    if importance == "random":
        return torch.rand(weight.shape, generator=generator)
    if importance == "taylor" and gradient is not None:
        return (weight * gradient).abs()
    if importance == "hessian" and gradient is not None:
        return weight**2 * gradient
    return weight.abs() if importance == "l1" else weight**2
