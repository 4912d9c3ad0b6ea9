"""Run every artifact in its own runtime on real samples and compare it with its network."""

from __future__ import annotations

from dataclasses import replace

from edgekd.errors import RecipeError
from edgekd.pipeline.candidates.acceptance import no_slices
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.pipeline.candidates.verify import verify_candidates
from edgekd.system.store import Run
from edgekd.tasks.evaluate import check_labels


def preflight(state: PipelineState) -> None:
    """Finds out whether the labels and slices of `state` can be judged by, before any training.

    Raises:
        RecipeError: the labels are not the task's or the metric's, or there are no slices to judge.
    """
    for split in ("validation", "test"):
        metric = state.recipe.accept.metric
        check_labels(state.samples(split), state.student, state.task, split, metric)
    if state.recipe.accept.slices is not None and not state.slices:
        raise RecipeError(no_slices())


def step(state: PipelineState, run: Run) -> PipelineState:
    """The work with an agreement, or how it failed, for every open row."""
    return replace(state, candidates=tuple(verify_candidates(state.candidates, state, run)))
