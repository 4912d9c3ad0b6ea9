"""Trains a network on labels with the task's own loss."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from edgekd.data import Augment, Samples
from edgekd.network.network import Network
from edgekd.recipe.training import Training
from edgekd.tasks import Task
from edgekd.tasks.evaluate import score
from edgekd.training.loop import (
    Batch,
    EpochProgress,
    Record,
    fit,
    no_epoch_progress,
    no_message,
)


def train(
    network: Network,
    task: Task,
    train_samples: Samples,
    validation: Samples,
    training: Training,
    *,
    metric: str,
    seed: int,
    augment: Augment | None = None,
    progress: EpochProgress = no_epoch_progress,
    log: Callable[[str], None] = no_message,
    checkpoint: Path | None = None,
) -> tuple[Network, list[Record]]:
    """A trained copy of `network`, as the last epoch left it, and what each epoch came to.

    Args:
        metric: of the task; recorded on the validation split after each epoch.
    """
    module = copy.deepcopy(network.module)
    output = network.signature.output_names[0]

    def loss_of(outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"hard": task.loss(outputs[output], batch.labels)}

    records = fit(
        module,
        loss_of,
        train_samples,
        training,
        seed=seed,
        augment=augment,
        validate=lambda module: {metric: score(module, output, validation, task, metric)},
        progress=progress,
        log=log,
        checkpoint=checkpoint,
    )
    return network.with_module(module), records
