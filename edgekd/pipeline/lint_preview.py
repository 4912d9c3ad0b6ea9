"""Previews the files of a recipe's student on its targets, before anything is trained."""

from __future__ import annotations

from dataclasses import replace

from edgekd.conversion.lint import lint
from edgekd.evidence.candidate import Candidate
from edgekd.formats.inspection import has_graph_reader, read_graph
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.pipeline.plan import Plan
from edgekd.pipeline.run import initial_state
from edgekd.pipeline.stages import export, fold, quantize
from edgekd.system.progress import Progress, no_progress
from edgekd.system.scratch import scratch_folder
from edgekd.system.store import open_run


def preview(plan: Plan, progress: Progress = no_progress) -> tuple[Candidate, ...]:
    """The candidates of the untrained student, with notes on operators and how to improve them.

    Which operators a file has does not depend on the weights. A conversion that fails is an outcome
    of its candidate. Nothing is stored.

    Raises:
        RecipeError: the data or the networks cannot be loaded, or are not valid.
    """
    with scratch_folder("check") as scratch:
        run = open_run(scratch, plan.recipe.name, plan.recipe.seed, progress)
        state = initial_state(plan, run)
        candidates = tuple(
            candidate
            for candidate in state.candidates
            if candidate.open and candidate.network == "student"
        )
        state = replace(state, candidates=candidates)
        state = fold.step(state, run) if plan.recipe.export.embeds else state
        state = quantize.step(state, run)
        # Which operators a file has does not depend on its quantization method.
        state = replace(
            state,
            candidates=tuple(candidate for candidate in state.candidates if not candidate.beside),
        )
        state = export.step(state, run)
        return tuple(
            replace(candidate, notes=_advice(candidate, state)) for candidate in state.candidates
        )


def _advice(candidate: Candidate, state: PipelineState) -> tuple[str, ...]:
    """Sentences on each operator that does not run well on the target: how, why, and the fix."""
    if candidate.artifact is None or not has_graph_reader(candidate.format):
        return candidate.notes
    graph = read_graph(candidate.artifact.path, candidate.format)
    return tuple(
        f"{finding.kind}: {finding.count} of {finding.operator}: {finding.why}; fix: {finding.fix}"
        for finding in lint(graph, state.deployment(candidate).target, candidate.scheme)
    )
