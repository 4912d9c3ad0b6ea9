"""What a recipe's targets will make of its student, found before anything is trained."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from edgekd.conversion.lint import lint
from edgekd.evidence.candidate import Candidate
from edgekd.formats.inspection import READERS, read_graph
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.pipeline.plan import Plan
from edgekd.pipeline.run import begin
from edgekd.pipeline.stages import export, fold, quantize
from edgekd.system.progress import Progress, no_progress
from edgekd.system.store import open_run


def preview(plan: Plan, progress: Progress = no_progress) -> tuple[Candidate, ...]:
    """A row for every candidate that the recipe's targets take, from the student as it is at first.

    Its weights are the untrained ones; which operators a file has does not depend on them. Each row
    has its notes, with what can be done, or how its conversion failed. Nothing is kept.

    Raises:
        RecipeError: the data or the networks cannot be loaded, or are not what they must be.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-check-") as scratch:
        place = open_run(Path(scratch), plan.recipe.name, plan.recipe.seed, progress)
        state = begin(plan, place)
        candidates = tuple(
            candidate
            for candidate in state.candidates
            if candidate.open and candidate.network == "student"
        )
        state = replace(state, candidates=candidates)
        state = fold.step(state, place) if plan.recipe.export.embeds else state
        state = quantize.step(state, place)
        # Which operators a file has does not depend on how its scheme's ranges were found.
        state = replace(
            state,
            candidates=tuple(candidate for candidate in state.candidates if not candidate.beside),
        )
        state = export.step(state, place)
        return tuple(
            replace(candidate, notes=_advice(candidate, state)) for candidate in state.candidates
        )


def _advice(candidate: Candidate, state: PipelineState) -> tuple[str, ...]:
    """What of a row's file will not run well on its target: in what way, why, and what to do."""
    if candidate.artifact is None or candidate.format not in READERS:
        return candidate.notes
    graph = read_graph(candidate.artifact.path, candidate.format)
    return tuple(
        f"{each.kind}: {each.count} of {each.operator}: {each.why}; to do: {each.fix}"
        for each in lint(graph, state.deployment(candidate).target, candidate.scheme)
    )
