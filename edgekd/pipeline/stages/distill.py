"""Teach the student what the teacher knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekd.distillation.distill import distill, planned
from edgekd.distillation.teachers import Teacher, teacher_key
from edgekd.network.network import Network, network_key
from edgekd.pipeline.candidates.score import scored_student
from edgekd.pipeline.candidates.state import Work
from edgekd.pruning.derive_student import derived
from edgekd.recipe.training import Distill
from edgekd.system.files import digest
from edgekd.system.store import Run
from edgekd.training.cache import trained_once
from edgekd.training.distributed import check_precision
from edgekd.training.loggers import recorder
from edgekd.training.loop import Record


def preflight(work: Work) -> None:
    """Finds what would stop the distillation of `work`, before any training.

    Raises:
        RecipeError: see `planned`.
    """
    if work.recipe.teacher is not None and work.recipe.teacher.train is not None:
        check_precision(work.recipe.teacher.train, "teacher.train")
    if work.recipe.distill is not None:
        check_precision(work.recipe.distill)
        planned(work.teachers, work.student, work.data, work.recipe.distill, task=work.task)


def step(work: Work, run: Run) -> Work:
    """The work with its student taught, where the recipe asks for it, and scored."""
    student, config = _untaught(work, 0), work.recipe.distill
    if config is not None:
        teachers: Sequence[tuple[Teacher, float]] = work.teachers
        for generation in range(config.generations):
            untaught = _untaught(work, generation) if generation else student
            student = _taught(teachers, untaught, work, config, run, generation)
            teachers = [(student, 1.0)]
    return replace(
        work, student=student, student_score=scored_student(student, replace(work, student=student))
    )


def _untaught(work: Work, generation: int) -> Network:
    """The student before it is taught; one that is derived begins with its teacher's weights."""
    if work.recipe.student.derived:
        return derived(work.teacher, work.recipe.student)
    if generation and work.another_student is not None:
        return work.another_student(generation)
    return work.student


def _taught(
    teachers: Sequence[tuple[Teacher, float]],
    student: Network,
    work: Work,
    config: Distill,
    run: Run,
    generation: int,
) -> Network:
    key: dict[str, Any] = {
        "teachers": [[teacher_key(teacher), weight] for teacher, weight in teachers],
        "student": network_key(student),
        "distill": config.model_dump(),
        "data": work.data_key,
        "seed": run.seed,
    }
    views = run.seed if work.data.augment is not None else None
    name = f"generation-{generation + 1}" if config.generations > 1 else ""

    def work_on(folder: Path) -> tuple[Network, list[Record]]:
        history: list[Record] = []
        taught = distill(
            teachers,
            student,
            work.data,
            config,
            task=work.task,
            metric=work.recipe.accept.metric,
            seed=run.seed,
            tell=recorder(run, "distill", folder),
            say=lambda sentence: run.tell("distill", sentence),
            checkpoint=folder / "checkpoint.pt",
            cache=run.store / "teacher_outputs" / digest([work.data_key, views])[:16],
            history=history,
        )
        return taught, history

    return trained_once(run, "distill", key, student, work_on, name=name, together=True)
