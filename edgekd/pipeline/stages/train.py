"""Train the teacher here, where the recipe brings no weights for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from edgekd.network.network import Network, network_key
from edgekd.pipeline.candidates.score import classes_of, scored, scored_outputs
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.system.store import Run
from edgekd.training.cache import trained_once
from edgekd.training.loggers import recorder
from edgekd.training.loop import Record
from edgekd.training.train import train


def step(state: PipelineState, run: Run) -> PipelineState:
    """The work with its teacher trained, where the recipe asks for it, and scored."""
    if state.teacher is None or state.recipe.teacher is None:
        return state
    teacher, training = state.teacher, state.recipe.teacher.train
    if not isinstance(teacher, Network):
        state = replace(state, teacher_score=scored_outputs(teacher, state))
        return replace(state, teacher_classes=_classes(state))
    if training is not None:
        key = {
            "teacher": network_key(teacher),
            "training": training.model_dump(),
            "data": state.data_key,
            "seed": run.seed,
        }
        untrained = teacher

        def work_on(folder: Path) -> tuple[Network, list[Record]]:
            return train(
                untrained,
                state.task,
                state.samples("train"),
                state.samples("validation"),
                training,
                metric=state.recipe.accept.metric,
                seed=run.seed,
                augment=state.data.augment,
                progress=recorder(run, "train", folder),
                log=lambda sentence: run.progress("train", sentence),
                checkpoint=folder / "checkpoint.pt",
            )

        teacher = trained_once(run, "train", key, teacher, work_on)
    first = (teacher, state.teachers[0][1])
    state = replace(
        state, teachers=(first, *state.teachers[1:]), teacher_score=scored(teacher, state)
    )
    return replace(state, teacher_classes=_classes(state))


def _classes(state: PipelineState) -> dict[str, Tensor]:
    """What [route] holds the device's answers against; folding changes what the data shows."""
    if state.recipe.route is None:
        return {}
    return {split: classes_of(state.teacher, state, split) for split in ("validation", "test")}
