"""Train the teacher, if the recipe has [teacher] train."""

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
from edgekd.training.options import Record, TrainingOptions
from edgekd.training.train import train


def step(state: PipelineState, run: Run) -> PipelineState:
    """The state with its teacher scored, and first trained if the recipe asks for it."""
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

        def train_teacher(folder: Path) -> tuple[Network, list[Record]]:
            return train(
                untrained,
                state.data,
                training,
                task=state.task,
                metric=state.recipe.accept.metric,
                seed=run.seed,
                options=TrainingOptions(
                    progress=recorder(run, "train", folder),
                    log=lambda sentence: run.progress("train", sentence),
                    checkpoint=folder / "checkpoint.pt",
                ),
            )

        teacher = trained_once(run, "train", key, teacher, train_teacher)
    first = (teacher, state.teachers[0][1])
    state = replace(
        state, teachers=(first, *state.teachers[1:]), teacher_score=scored(teacher, state)
    )
    return replace(state, teacher_classes=_classes(state))


def _classes(state: PipelineState) -> dict[str, Tensor]:
    """The teacher's classes for [route], before embedded preprocessing changes the data."""
    if state.recipe.route is None:
        return {}
    return {split: classes_of(state.teacher, state, split) for split in ("validation", "test")}
