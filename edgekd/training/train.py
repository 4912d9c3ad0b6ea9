"""Trains a network on labels with the loss of its task."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor

from edgekd.data import Data, Samples
from edgekd.network.network import Network
from edgekd.recipe.training import Training
from edgekd.tasks import Task
from edgekd.tasks.evaluate import score
from edgekd.training.loop import Batch, fit
from edgekd.training.options import Record, TrainingOptions
from edgekd.training.schedule import augmented


def train(
    network: Network,
    data: Data,
    training: Training,
    *,
    task: Task,
    metric: str,
    seed: int,
    options: TrainingOptions | None = None,
) -> tuple[Network, list[Record]]:
    """A copy of `network` after the last epoch, and the record of each epoch.

    Args:
        metric: the task's metric that is recorded on the validation split after each epoch.

    Raises:
        RecipeError: see `edgekd.training.loop.fit`.
    """
    module = copy.deepcopy(network.module)
    names = tuple(network.signature.input_names)
    output = network.signature.output_names[0]
    validation = Samples(data.validation, names)

    def loss_of(outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"hard": task.loss(outputs[output], batch.labels)}

    records = fit(
        module,
        loss_of,
        Samples(data.train, names),
        training,
        seed=seed,
        view=augmented(data.augment, seed),
        validate=lambda module: {metric: score(module, output, validation, task, metric)},
        options=options or TrainingOptions(),
    )
    return network.with_module(module), records
