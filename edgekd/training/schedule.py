"""The order of samples, the optimizer and the learning rate of a training."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.data import Mixed, Samples, labelled_count, view_seeds
from edgekd.recipe.training import Training

WARM_UP_FRAC = 0.05
"""Share of all steps over which the learning rate grows from 0: losses scaled by T^2 have larger
gradients, and an unnormalised network diverged without it."""


def sample_order(samples: Samples | Mixed, seed: int) -> Tensor:
    """All samples in random order, those with labels dealt evenly among those without."""
    generator = torch.Generator().manual_seed(seed)
    own = labelled_count(samples)
    others = len(samples) - own
    if not own or not others:
        return torch.randperm(len(samples), generator=generator)
    ids = torch.cat(
        [
            torch.randperm(own, generator=generator),
            own + torch.randperm(others, generator=generator),
        ]
    )
    place = torch.cat([(torch.arange(size) + 0.5) / size for size in (own, others)])
    return ids[place.argsort(stable=True)]


def in_batches(order: Tensor, size: int, least: int) -> list[Tensor]:
    """`order` in batches of `size`; a last one of fewer than `least` goes to the one before: batch
    norm has no variance over one sample, and every process needs some."""
    batches = list(order.split(size))
    if len(batches) > 1 and len(batches[-1]) < least:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def learning_rate_frac(step: int, steps: int, schedule: str) -> float:
    """The learning rate at `step` of `steps`, as a share of the recipe's."""
    warm_up = max(1, round(WARM_UP_FRAC * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    if schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of all that is drawn in an epoch."""
    return int(view_seeds(seed, epoch, torch.tensor([2**62]))[0])


def optimizer_of(module: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The optimizer that a recipe names, over what `module` trains."""
    chosen = training.optimizer
    shared: dict[str, Any] = {
        "params": [entry for entry in module.parameters() if entry.requires_grad],
        "lr": chosen.learning_rate,
        "weight_decay": chosen.weight_decay,
        # One kernel for all parameters: a tenth of the step of a small network on a CPU. Under
        # float16 it would unscale gradients itself, after they are clipped.
        "fused": training.precision != "fp16",
    }
    if chosen.name == "sgd":
        return torch.optim.SGD(**shared, momentum=chosen.momentum, nesterov=chosen.momentum > 0)
    if chosen.name == "adam":
        return torch.optim.Adam(**shared)
    return torch.optim.AdamW(**shared)
