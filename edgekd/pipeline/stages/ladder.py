"""Accuracy recovery: fallbacks for a target whose quantized candidates all failed to be accepted.

First other quantization methods, then mixed precision (the most sensitive layers in float), then
QAT. A fallback is tried only if the one before failed; each is a candidate with its own figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from edgekd.errors import EdgekdError
from edgekd.evidence.candidate import Candidate
from edgekd.evidence.outcome import Outcome
from edgekd.formats.method_ranking import fallback_methods
from edgekd.formats.quantization_methods import methods_of
from edgekd.pipeline.candidates.export import conversion_of, export_candidates
from edgekd.pipeline.candidates.mixed_precision import grouped, layers_of, sqnr_by_group
from edgekd.pipeline.candidates.qat import train_candidate
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.pipeline.candidates.verify import verify_candidates
from edgekd.system.store import Run
from edgekd.training.distributed import alone

MOST_IN_FLOAT = 0.5
"""The largest share of layer groups in float: beyond it, the float file is the better one."""

Fallback = Callable[
    [Sequence[Candidate], PipelineState, Run], Iterator[tuple[Candidate, PipelineState]]
]
"""Yields the candidates to try next, given the failed ones of one target and scheme.

Each comes with the state that has its network, and is requested only if the one before failed.
"""


def step(state: PipelineState, run: Run) -> PipelineState:
    """The state with further candidates for every target that has no accepted quantized one."""
    if state.recipe.quantize.search != "auto" or not _student_passes(state):
        return state
    candidates: list[Candidate] = []
    for deployment in state.deployments:
        ours = [
            candidate
            for candidate in state.candidates
            if candidate.target == deployment.target.name
        ]
        tried, state = recover(ours, state, run)
        candidates += [*ours, *tried]
    return replace(state, candidates=tuple(candidates))


def recover(
    candidates: Sequence[Candidate], state: PipelineState, run: Run
) -> tuple[list[Candidate], PipelineState]:
    """The fallbacks tried for one target's `candidates` until one was accepted, and the new state.

    A scheme has fallbacks if one of its candidates disagrees with its network.
    """
    quantized = [
        candidate
        for candidate in candidates
        if candidate.network == "student" and methods_of(candidate.format, candidate.scheme)
    ]
    tried: list[Candidate] = []
    if any(_accepted(candidate, state) for candidate in quantized):
        return tried, state
    failed = dict.fromkeys(
        candidate.scheme for candidate in quantized if candidate.outcome is Outcome.DISAGREES
    )
    for fallback in FALLBACKS:
        for scheme in failed:
            ours = [candidate for candidate in [*quantized, *tried] if candidate.scheme == scheme]
            # QAT is tried however many candidates came before.
            limit = state.recipe.quantize.candidates
            if fallback is not qat:
                limit -= sum(candidate.scheme == scheme for candidate in tried)
            further = fallback(ours, state, run)
            for candidate, state in islice(further, limit):
                run.progress("ladder", f"{candidate.target} {candidate.name}")
                (candidate,) = verify_candidates(
                    export_candidates([candidate], state, run), state, run
                )
                tried.append(candidate)
                if _accepted(candidate, state):
                    return tried, state
    return tried, state


def _accepted(candidate: Candidate, state: PipelineState) -> bool:
    """Whether `candidate` passes so far, size included; its latency is not known yet."""
    limit = state.deployment(candidate).budget.size_bytes
    fits = limit is None or candidate.artifact is None or candidate.artifact.size_bytes <= limit
    return candidate.open and fits


def _student_passes(state: PipelineState) -> bool:
    """Whether the student itself is accepted: no quantizer can be better than it."""
    against, ours = state.teacher_score, state.student_score
    if against is None or ours is None:
        return True
    accept = state.recipe.accept
    return state.task.metrics[accept.metric].drop(ours.metric, against.metric) <= accept.max_drop


def other_methods(
    candidates: Sequence[Candidate],
    state: PipelineState,
    run: Run,  # noqa: ARG001
) -> Iterator[tuple[Candidate, PipelineState]]:
    """The quantization methods of the format that were not tried, in order."""
    first = candidates[0]
    tried = [candidate.method for candidate in candidates if candidate.method]
    for method in fallback_methods(
        first.format, first.scheme, tried, methods_of(first.format, first.scheme)
    ):
        yield _again(first, method=method), state


def sensitive_layers(
    candidates: Sequence[Candidate], state: PipelineState, run: Run
) -> Iterator[tuple[Candidate, PipelineState]]:
    """Mixed precision: the best candidate with its most sensitive layer groups in float.

    The sensitivity of a group is measured on a file in which only that group is quantized, on the
    calibration samples. One, two, four ... groups stay in float, at most half of them.
    """
    # Layers have names in the target's format: a file quantized in another format has others.
    judged = [
        candidate
        for candidate in candidates
        if candidate.agreement is not None
        and not (candidate.method or "").startswith("onnxruntime")
    ]
    if not judged:
        return
    # Methods that quantize other operators too keep tensors quantized around a float layer.
    linear = [
        candidate for candidate in judged if candidate.method and "linear" in candidate.method
    ]
    best = max(linear or judged, key=_fidelity)
    conversion = conversion_of(best, state)
    target = state.deployment(best).target
    run.progress("ladder", f"{best.target} {best.name}: measuring layer sensitivity")
    try:
        layers = layers_of(conversion.network, best.format, target.channels_last)
    except EdgekdError:
        return
    groups = grouped(layers)
    options = state.recipe.export
    sqnr = sqnr_by_group(
        replace(conversion, calibration=conversion.calibration or state.calibration),
        groups,
        processes=options.processes,
        timeout_s=options.timeout_s,
    )
    order = sorted(sqnr, key=lambda group: sqnr[group])
    count = 1
    while count <= max(1, int(MOST_IN_FLOAT * len(groups))) and count <= len(order):
        kept = tuple(name for group in order[:count] for name in group)
        yield _again(best, method=best.method, excluded=kept), state
        count *= 2


def qat(
    candidates: Sequence[Candidate], state: PipelineState, run: Run
) -> Iterator[tuple[Candidate, PipelineState]]:
    """Quantization-aware training, if the recipe has epochs for it.

    One process trains: the others ended with the training stages.
    """
    first = candidates[0]
    if not state.recipe.quantize.qat_epochs or first.scheme != "int8":
        return
    candidate = Candidate(first.target, first.format, first.scheme, network="qat")
    run.progress("ladder", f"{candidate.target} {candidate.name}: quantization-aware training")
    try:
        with alone():
            candidate, state = train_candidate(candidate, state, replace(run, spawn=None))
    except EdgekdError as error:
        why = f"{error.faults[0].what} {error.faults[0].got}"
        candidate = replace(candidate, outcome=Outcome.CONVERT_FAILED, detail=why)
    yield candidate, state


FALLBACKS: tuple[Fallback, ...] = (other_methods, sensitive_layers, qat)
"""In order, the cheapest first."""


def _fidelity(candidate: Candidate) -> tuple[float, float]:
    """The merit on the validation split, then the SQNR: the test split chooses nothing."""
    assert candidate.agreement is not None
    return candidate.agreement.validation_merit, candidate.agreement.sqnr_db


def _again(
    candidate: Candidate, *, method: str | None, excluded: tuple[str, ...] = ()
) -> Candidate:
    """An open candidate like `candidate`, by another method or with layers in float."""
    return Candidate(
        candidate.target,
        candidate.format,
        candidate.scheme,
        network=candidate.network,
        method=method,
        excluded_operators=excluded,
        beside=True,
    )
