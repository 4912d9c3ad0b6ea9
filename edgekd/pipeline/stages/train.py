"""Train the teacher here, where the recipe brings no weights for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from edgekd.network.network import Network, network_key
from edgekd.pipeline.candidates.score import classes_of, scored, scored_outputs
from edgekd.pipeline.candidates.state import Work
from edgekd.system.store import Run
from edgekd.training.cache import trained_once
from edgekd.training.loggers import recorder
from edgekd.training.loop import Record
from edgekd.training.train import train


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
