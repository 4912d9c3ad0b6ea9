"""Train the teacher here, where the recipe brings no weights for it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from edgekd.data import Augment, Samples
from edgekd.evaluate import score
from edgekd.fit import Batch, Record, fit, ignore, silent
from edgekd.network import Network
from edgekd.store import Run
from edgekd.task import Task
from edgekd.teachers import classes_of, scored_outputs
from edgekd.trained import network_key, recorder, scored, trained_once
from edgekd.training import Training
from edgekd.work import Work


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
    tell: Callable[[int, int, Record], None] = ignore,
    say: Callable[[str], None] = silent,
    checkpoint: Path | None = None,
) -> tuple[Network, list[Record]]:
    """A trained copy of `network`, as the last epoch left it, and what each epoch came to.

    Args:
        metric: of the task; recorded on the validation split after each epoch.
    """
    module = copy.deepcopy(network.module)
    output = network.signature.output_names[0]

    def loss_of(outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"hard": task.hard_loss(outputs[output], batch.labels)}

    records = fit(
        module,
        loss_of,
        train_samples,
        training,
        seed=seed,
        augment=augment,
        validate=lambda module: {metric: score(module, output, validation, task, metric)},
        tell=tell,
        say=say,
        checkpoint=checkpoint,
    )
    return network.with_module(module), records


def step(work: Work, run: Run) -> Work:
    """The work with its teacher trained, where the recipe asks for it, and scored."""
    if work.teacher is None or work.recipe.teacher is None:
        return work
    teacher, training = work.teacher, work.recipe.teacher.train
    if not isinstance(teacher, Network):
        work = replace(work, teacher_score=scored_outputs(teacher, work))
        return replace(work, teacher_classes=_classes(work))
    if training is not None:
        key = {
            "teacher": network_key(teacher),
            "training": training.model_dump(),
            "data": work.data_key,
            "seed": run.seed,
        }
        untrained = teacher

        def work_on(folder: Path) -> tuple[Network, list[Record]]:
            return train(
                untrained,
                work.task,
                work.samples("train"),
                work.samples("validation"),
                training,
                metric=work.recipe.accept.metric,
                seed=run.seed,
                augment=work.data.augment,
                tell=recorder(run, "train", folder),
                say=lambda sentence: run.tell("train", sentence),
                checkpoint=folder / "checkpoint.pt",
            )

        teacher = trained_once(run, "train", key, teacher, work_on)
    first = (teacher, work.teachers[0][1])
    work = replace(work, teachers=(first, *work.teachers[1:]), teacher_score=scored(teacher, work))
    return replace(work, teacher_classes=_classes(work))


def _classes(work: Work) -> dict[str, Tensor]:
    """What [route] holds the device's answers against; folding changes what the data shows."""
    if work.recipe.route is None:
        return {}
    return {split: classes_of(work.teacher, work, split) for split in ("validation", "test")}
