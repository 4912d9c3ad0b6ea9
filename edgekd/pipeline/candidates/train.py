"""Trains a student with teachers in a run: cached, checkpointed and recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from edgekd.distillation.distill import distill
from edgekd.distillation.teachers import Teacher, teacher_key
from edgekd.network.network import Network, network_key
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.recipe.training import Distill
from edgekd.system.files import digest
from edgekd.system.store import Run
from edgekd.training.cache import trained_once
from edgekd.training.loggers import recorder
from edgekd.training.options import Record, TrainingOptions


@dataclass(frozen=True)
class Distillation:
    """A student to train, its teachers and how.

    Attributes:
        teachers: each with its weight.
        after_step: called with the student's module after each optimizer step.
        depends_on: what the result depends on besides the fields above, as a JSON document.
    """

    teachers: Sequence[tuple[Teacher, float]]
    student: Network
    config: Distill
    after_step: Callable[[nn.Module], None] | None = None
    depends_on: Mapping[str, Any] = field(default_factory=dict)


def distilled_once(
    distillation: Distillation, state: PipelineState, run: Run, *, stage: str, name: str = ""
) -> Network:
    """The trained student: from the run store if an earlier run trained it, else trained now.

    Args:
        stage, name: where the run's folder holds the weights and the history.

    Raises:
        RecipeError: see `edgekd.distillation.distill.distill`.
    """
    teachers, student, config = distillation.teachers, distillation.student, distillation.config
    key: dict[str, Any] = {
        "teachers": [[teacher_key(teacher), weight] for teacher, weight in teachers],
        "student": network_key(student),
        "distill": config.model_dump(),
        "data": state.data_key,
        "seed": run.seed,
        **distillation.depends_on,
    }
    # The teachers' outputs depend on the seed only through the views of the samples.
    views = run.seed if state.data.augment is not None else None

    def train(folder: Path) -> tuple[Network, list[Record]]:
        history: list[Record] = []
        trained = distill(
            teachers,
            student,
            state.data,
            config,
            task=state.task,
            metric=state.recipe.accept.metric,
            seed=run.seed,
            options=TrainingOptions(
                progress=recorder(run, stage, folder),
                log=lambda sentence: run.progress(stage, sentence),
                checkpoint=folder / "checkpoint.pt",
                cache=run.store / "teacher_outputs" / digest([state.data_key, views])[:16],
                history=history,
                after_step=distillation.after_step,
            ),
        )
        return trained, history

    return trained_once(run, stage, key, student, train, name=name, together=True)
