"""Train the student with its teachers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgekd.distillation.distill import planned
from edgekd.distillation.teachers import Teacher
from edgekd.network.network import Network
from edgekd.pipeline.candidates.score import scored_student
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.pipeline.candidates.train import Distillation, distilled_once
from edgekd.pruning.derive_student import derived
from edgekd.system.store import Run
from edgekd.training.distributed import check_precision


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
    """The state with its student scored, and first distilled if the recipe has [distill]."""
    student, config = _untrained(state, 0), state.recipe.distill
    if config is not None:
        teachers: Sequence[tuple[Teacher, float]] = state.teachers
        for generation in range(config.generations):
            untrained = _untrained(state, generation) if generation else student
            name = f"generation-{generation + 1}" if config.generations > 1 else ""
            distillation = Distillation(teachers, untrained, config)
            student = distilled_once(distillation, state, run, stage="distill", name=name)
            teachers = [(student, 1.0)]
    return replace(
        state,
        student=student,
        student_score=scored_student(student, replace(state, student=student)),
    )


def _untrained(state: PipelineState, generation: int) -> Network:
    """The student before training; a derived student starts from its teacher's weights."""
    if state.recipe.student.derived:
        return derived(state.teacher, state.recipe.student)
    if generation and state.another_student is not None:
        return state.another_student(generation)
    return state.student
