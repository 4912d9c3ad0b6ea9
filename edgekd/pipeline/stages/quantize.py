"""Find out what every format is calibrated with, and by which methods it is quantized."""

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
    """The work with its calibration samples, where a scheme needs them, and a row for every
    method that is tried; with the student trained to be rounded, where the recipe asks for it and
    searches for no other way."""
    state = replace(state, candidates=tuple(expanded(state.candidates, state)))
    if not any(
        uses_samples(candidate.scheme, method)
        for candidate in state.candidates
        if candidate.open
        for method in (None, *methods_of(candidate.format, candidate.scheme))
    ):
        return state
    state = calibrated(state, run)
    return train_candidates(state, run) if state.recipe.quantize.qat_epochs else state


def expanded(candidates: Sequence[Candidate], state: PipelineState) -> list[Candidate]:
    """`candidates`, with one candidate per quantization method for each that is open.

    A target has as many as the recipe allows; of the unpruned network the first of each alone.
    """
    if not any(
        candidate.open and methods_of(candidate.format, candidate.scheme)
        for candidate in candidates
    ):
        return list(candidates)
    kind = architecture_of(state.student)
    suited = {
        (candidate.format, candidate.scheme): ranked_methods(
            candidate.format, candidate.scheme, kind, methods_of(candidate.format, candidate.scheme)
        )
        for candidate in candidates
        if candidate.open
    }
    search = state.recipe.quantize
    found: list[Candidate] = []
    for deployment in state.deployments:
        ours = [candidate for candidate in candidates if candidate.target == deployment.target.name]
        # Of the student alone: what it is compared with need not be the best there is.
        searched = {
            candidate.scheme: suited[candidate.format, candidate.scheme] or ("",)
            for candidate in ours
            if candidate.open and candidate.network == "student"
        }
        most = search.candidates if search.search == "auto" else 0
        chosen = share_trials(searched, most)
        for candidate in ours:
            names = chosen.get(candidate.scheme, [""]) if candidate.open else [""]
            names = names if candidate.network == "student" else names[:1]
            found += [
                replace(candidate, method=name or None, beside=number > 0)
                for number, name in enumerate(names)
            ]
    return found
