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
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.pruning.derive_student import derived
from edgekd.recipe.training import Distill
from edgekd.system.files import digest
from edgekd.system.store import Run
from edgekd.training.cache import trained_once
from edgekd.training.distributed import check_precision
from edgekd.training.loggers import recorder
from edgekd.training.loop import Record


def preflight(state: PipelineState) -> None:
    """Finds what would stop the distillation of `state`, before any training.

    Raises:
        RecipeError: see `planned`.
    """
    if state.recipe.teacher is not None and state.recipe.teacher.train is not None:
        check_precision(state.recipe.teacher.train, "teacher.train")
    if state.recipe.distill is not None:
        check_precision(state.recipe.distill)
        planned(state.teachers, state.student, state.data, state.recipe.distill, task=state.task)


def step(state: PipelineState, run: Run) -> PipelineState:
    """The work with its student taught, where the recipe asks for it, and scored."""
    student, config = _untaught(state, 0), state.recipe.distill
    if config is not None:
        teachers: Sequence[tuple[Teacher, float]] = state.teachers
        for generation in range(config.generations):
            untaught = _untaught(state, generation) if generation else student
            student = _taught(teachers, untaught, state, config, run, generation)
            teachers = [(student, 1.0)]
    return replace(
        state,
        student=student,
        student_score=scored_student(student, replace(state, student=student)),
    )


def _untaught(state: PipelineState, generation: int) -> Network:
    """The student before it is taught; one that is derived begins with its teacher's weights."""
    if state.recipe.student.derived:
        return derived(state.teacher, state.recipe.student)
    if generation and state.another_student is not None:
        return state.another_student(generation)
    return state.student


def _taught(
    teachers: Sequence[tuple[Teacher, float]],
    student: Network,
    state: PipelineState,
    config: Distill,
    run: Run,
    generation: int,
) -> Network:
    key: dict[str, Any] = {
        "teachers": [[teacher_key(teacher), weight] for teacher, weight in teachers],
        "student": network_key(student),
        "distill": config.model_dump(),
        "data": state.data_key,
        "seed": run.seed,
    }
    views = run.seed if state.data.augment is not None else None
    name = f"generation-{generation + 1}" if config.generations > 1 else ""

    def work_on(folder: Path) -> tuple[Network, list[Record]]:
        history: list[Record] = []
        taught = distill(
            teachers,
            student,
            state.data,
            config,
            task=state.task,
            metric=state.recipe.accept.metric,
            seed=run.seed,
            progress=recorder(run, "distill", folder),
            log=lambda sentence: run.progress("distill", sentence),
            checkpoint=folder / "checkpoint.pt",
            cache=run.store / "teacher_outputs" / digest([state.data_key, views])[:16],
            history=history,
        )
        return taught, history

    return trained_once(run, "distill", key, student, work_on, name=name, together=True)
