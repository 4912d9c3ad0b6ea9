"""Where every quantized candidate of a target missed what is accepted: try what costs more.

Other ranges and roundings come first, then the most sensitive layers in float, one more group at a
time, then the student is trained to be rounded. A rung is tried only if the one before missed; each
is a row with its metric, size and time.
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
"""Of the layers' groups: with more in float, the float file is the better one."""

Rung = Callable[
    [Sequence[Candidate], PipelineState, Run], Iterator[tuple[Candidate, PipelineState]]
]
"""Candidates to try next, given those of one target and scheme that missed, each with the work that
has its network; each is asked for only if the one before missed too."""


def step(state: PipelineState, run: Run) -> PipelineState:
    """The work with more rows for every target of which no quantized candidate was accepted."""
    if state.recipe.quantize.search != "auto" or not _student_passes(state):
        return state
    candidates: list[Candidate] = []
    for deployment in state.deployments:
        ours = [
            candidate
            for candidate in state.candidates
            if candidate.target == deployment.target.name
        ]
        tried, state = climb(ours, state, run)
        candidates += [*ours, *tried]
    return replace(state, candidates=tuple(candidates))


def climb(
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
    missed = dict.fromkeys(
        candidate.scheme for candidate in quantized if candidate.outcome is Outcome.DISAGREES
    )
    for rung in RUNGS:
        for scheme in missed:
            ours = [candidate for candidate in [*quantized, *tried] if candidate.scheme == scheme]
            # What nothing else could mend is trained, however many candidates that took.
            most = state.recipe.quantize.candidates
            room = (
                most
                if rung is trained
                else most - sum(candidate.scheme == scheme for candidate in tried)
            )
            for candidate, state in islice(rung(ours, state, run), room):  # noqa: B020  What it has seen.
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
    """Whether the student itself is accepted: what is wrong with it, no quantizer mends."""
    against, ours = state.teacher_score, state.student_score
    if against is None or ours is None:
        return True
    return ours.metric >= against.metric - state.recipe.accept.max_drop


def other_methods(
    candidates: Sequence[Candidate],
    state: PipelineState,
    run: Run,  # noqa: ARG001
) -> Iterator[tuple[Candidate, PipelineState]]:
    """The methods of the format that were not tried, in the ladder's order."""
    first = candidates[0]
    tried = [candidate.method for candidate in candidates if candidate.method]
    for method in fallback_methods(
        first.format, first.scheme, tried, methods_of(first.format, first.scheme)
    ):
        yield _again(first, method=method), state


def sensitive_layers(
    candidates: Sequence[Candidate], state: PipelineState, run: Run
) -> Iterator[tuple[Candidate, PipelineState]]:
    """The best so far with its most sensitive layers in float: one group of them, two, four.

    How much a group costs is measured on files in which it alone is quantized, on the calibration
    samples. In combination the groups that cost most are joined, to half of them at most.
    """
    # Layers have names in the target's format: what was quantized in another cannot keep them.
    judged = [
        candidate
        for candidate in candidates
        if candidate.agreement is not None
        and not (candidate.method or "").startswith("onnxruntime")
    ]
    if not judged:
        return
    # Where other operators are quantized too, their tensors stay so around a layer in float.
    linear = [
        candidate for candidate in judged if candidate.method and "linear" in candidate.method
    ]
    best = max(linear or judged, key=_fidelity)
    conversion = conversion_of(best, state)
    target = state.deployment(best).target
    run.progress("ladder", f"{best.target} {best.name}: how much each layer costs")
    try:
        layers = layers_of(conversion.network, best.format, target.channels_last)
    except EdgekdError:
        return
    groups = grouped(layers)
    options = state.recipe.export
    found = sqnr_by_group(
        replace(conversion, calibration=conversion.calibration or state.calibration),
        groups,
        processes=options.processes,
        timeout_s=options.timeout_s,
    )
    order = sorted(found, key=lambda group: found[group])
    count = 1
    while count <= max(1, int(MOST_IN_FLOAT * len(groups))) and count <= len(order):
        kept = tuple(name for group in order[:count] for name in group)
        yield _again(best, method=best.method, keep=kept), state
        count *= 2


def trained(
    candidates: Sequence[Candidate], state: PipelineState, run: Run
) -> Iterator[tuple[Candidate, PipelineState]]:
    """The student trained to be rounded as its file will be, where the recipe has epochs for it.

    One process trains it: others that took part in the stages before are gone.
    """
    first = candidates[0]
    if not state.recipe.quantize.qat_epochs or first.scheme != "int8":
        return
    candidate = Candidate(first.target, first.format, first.scheme, network="qat")
    run.progress("ladder", f"{candidate.target} {candidate.name}: trained to be rounded")
    try:
        with alone():
            candidate, state = train_candidate(candidate, state, replace(run, spawn=None))
    except EdgekdError as error:
        why = f"{error.faults[0].what} {error.faults[0].got}"
        candidate = replace(candidate, outcome=Outcome.CONVERT_FAILED, detail=why)
    yield candidate, state


RUNGS: tuple[Rung, ...] = (other_methods, sensitive_layers, trained)
"""In order, the cheapest first."""


def _fidelity(candidate: Candidate) -> tuple[float, float]:
    """The metric on validation, then the SQNR: by the test split nothing is chosen."""
    assert candidate.agreement is not None
    return candidate.agreement.validation_metric or 0.0, candidate.agreement.sqnr_db


def _again(candidate: Candidate, *, method: str | None, keep: tuple[str, ...] = ()) -> Candidate:
    """An open row like `candidate`, of another method or with layers in float."""
    return Candidate(
        candidate.target,
        candidate.format,
        candidate.scheme,
        network=candidate.network,
        method=method,
        keep=keep,
        beside=True,
    )
