"""Run every artifact in its own runtime on real samples and compare it with its network."""

from __future__ import annotations

from dataclasses import replace

from edgekd.errors import RecipeError
from edgekd.pipeline.candidates.acceptance import no_slices
from edgekd.pipeline.candidates.state import Work
from edgekd.pipeline.candidates.verify import verify_rows
from edgekd.system.store import Run
from edgekd.tasks.evaluate import check_labels


def preflight(work: Work) -> None:
    """Finds out whether the labels and slices of `work` can be judged by, before any training.

    Raises:
        RecipeError: the labels are not the task's or the metric's, or there are no slices to judge.
    """
    for split in ("validation", "test"):
        metric = work.recipe.accept.metric
        check_labels(work.samples(split), work.student, work.task, split, metric)
    if work.recipe.accept.slices is not None and not work.slices:
        raise RecipeError(no_slices())


def step(work: Work, run: Run) -> Work:
    """The work with an agreement, or how it failed, for every open row."""
    return replace(work, rows=tuple(verify_rows(work.rows, work, run)))
