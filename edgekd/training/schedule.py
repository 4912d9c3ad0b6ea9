"""The order and the views of samples, the optimizer and the learning rate of a training run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.data import Augment, Inputs, Mixed, Samples, labelled_count, view_seeds
from edgekd.recipe.training import Training

View = Callable[[Inputs, int, Tensor], Inputs]
"""The inputs of a batch as an epoch shows them, given the inputs, the epoch and the sample ids."""

WARM_UP_FRAC = 0.05
"""Share of all steps over which the learning rate grows from 0: losses scaled by T^2 have larger
gradients, and a network without normalization diverged without warm-up."""


def sample_order(samples: Samples | Mixed, seed: int) -> Tensor:
    """All samples in random order, with the labelled ones spread evenly among the others."""
    generator = torch.Generator().manual_seed(seed)
    labelled = labelled_count(samples)
    unlabelled = len(samples) - labelled
    if not labelled or not unlabelled:
        return torch.randperm(len(samples), generator=generator)
    ids = torch.cat(
        [
            torch.randperm(labelled, generator=generator),
            labelled + torch.randperm(unlabelled, generator=generator),
        ]
    )
    position = torch.cat([(torch.arange(size) + 0.5) / size for size in (labelled, unlabelled)])
    return ids[position.argsort(stable=True)]


def augmented(
    augment: Augment | None, seed: int, view_of: Callable[[int], int] = lambda epoch: epoch
) -> View | None:
    """The inputs of samples in an epoch, as `augment` shows them; None without `augment`.

    Args:
        view_of: the number that seeds the views of an epoch; it repeats if outputs are cached.
    """
    if augment is None:
        return None
    return lambda inputs, epoch, ids: augment(inputs, view_seeds(seed, view_of(epoch), ids))


def in_batches(order: Tensor, size: int, least: int) -> list[Tensor]:
    """`order` in batches of `size`; a last batch of fewer than `least` joins the one before.

    Batch normalization has no variance over one sample, and every process needs samples.
    """
    batches = list(order.split(size))
    if len(batches) > 1 and len(batches[-1]) < least:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def learning_rate_frac(step: int, steps: int, schedule: str) -> float:
    """The learning rate at `step` of `steps`, as a share of the peak learning rate."""
    warm_up = max(1, round(WARM_UP_FRAC * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    if schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of all random numbers in an epoch."""
    return int(view_seeds(seed, epoch, torch.tensor([2**62]))[0])


def optimizer_of(module: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The optimizer that a recipe names, for the trainable parameters of `module`."""
    chosen = training.optimizer
    shared: dict[str, Any] = {
        "params": [entry for entry in module.parameters() if entry.requires_grad],
        "lr": chosen.learning_rate,
        "weight_decay": chosen.weight_decay,
        # One kernel for all parameters saves a tenth of a small network's step on a CPU. With
        # float16 a fused optimizer unscales gradients itself, after they have been clipped.
        "fused": training.precision != "fp16",
    }
    if chosen.name == "sgd":
        return torch.optim.SGD(**shared, momentum=chosen.momentum, nesterov=chosen.momentum > 0)
    if chosen.name == "adam":
        return torch.optim.Adam(**shared)
    return torch.optim.AdamW(**shared)
