"""Run every artifact in its own runtime on real samples, and compare it with its network."""

from __future__ import annotations

from dataclasses import replace

from edgekd.errors import RecipeError
from edgekd.pipeline.candidates.acceptance import no_slices
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.pipeline.candidates.verify import verify_candidates
from edgekd.system.store import Run
from edgekd.tasks.evaluate import check_labels


def preflight(state: PipelineState) -> None:
    """Checks the labels and slices, before any training.

    Raises:
        RecipeError: the labels do not suit the task or the metric, or [accept] asks for slices that
            the data does not have.
    """
    for split in ("validation", "test"):
        metric = state.recipe.accept.metric
        check_labels(state.samples(split), state.student, state.task, split, metric)
    if state.recipe.accept.slices is not None and not state.slices:
        raise RecipeError(no_slices())


def step(state: PipelineState, run: Run) -> PipelineState:
    """The state with an agreement, or the outcome of a failure, for every open candidate."""
    return replace(state, candidates=tuple(verify_candidates(state.candidates, state, run)))
