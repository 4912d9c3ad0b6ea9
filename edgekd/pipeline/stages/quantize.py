"""Select the calibration samples and the quantization methods of every candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgekd.evidence.candidate import Candidate
from edgekd.formats.method_ranking import ranked_methods, share_trials
from edgekd.formats.quantization_methods import methods_of, uses_samples
from edgekd.network.architecture import architecture_of
from edgekd.pipeline.candidates.calibrate import calibrated
from edgekd.pipeline.candidates.qat import train_candidates
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.system.store import Run


def step(state: PipelineState, run: Run) -> PipelineState:
    """The state with its calibration samples, if needed, and a candidate per quantization method.

    With [quantize] qat_epochs and search = "first", the QAT students are trained here too.
    """
    state = replace(state, candidates=tuple(with_methods(state.candidates, state)))
    if not any(
        uses_samples(candidate.format, candidate.scheme, method)
        for candidate in state.candidates
        if candidate.open
        for method in (None, *methods_of(candidate.format, candidate.scheme))
    ):
        return state
    state = calibrated(state, run)
    return train_candidates(state, run) if state.recipe.quantize.qat_epochs else state


def with_methods(candidates: Sequence[Candidate], state: PipelineState) -> list[Candidate]:
    """`candidates`, with one candidate per quantization method for each that is open.

    A target has as many as the recipe allows. The unpruned network gets only the first method of
    each scheme.
    """
    if not any(
        candidate.open and methods_of(candidate.format, candidate.scheme)
        for candidate in candidates
    ):
        return list(candidates)
    architecture = architecture_of(state.student)
    ranked = {
        (candidate.format, candidate.scheme): ranked_methods(
            candidate.format,
            candidate.scheme,
            architecture,
            methods_of(candidate.format, candidate.scheme),
        )
        for candidate in candidates
        if candidate.open
    }
    search = state.recipe.quantize
    expanded: list[Candidate] = []
    for deployment in state.deployments:
        ours = [candidate for candidate in candidates if candidate.target == deployment.target.name]
        # Only for the student: what it is compared with need not have the best method.
        searched = {
            candidate.scheme: ranked[candidate.format, candidate.scheme] or ("",)
            for candidate in ours
            if candidate.open and candidate.network == "student"
        }
        most = search.candidates if search.search == "auto" else 0
        chosen = share_trials(searched, most)
        for candidate in ours:
            names = chosen.get(candidate.scheme, [""]) if candidate.open else [""]
            names = names if candidate.network == "student" else names[:1]
            expanded += [
                replace(candidate, method=name or None, beside=number > 0)
                for number, name in enumerate(names)
            ]
    return expanded
