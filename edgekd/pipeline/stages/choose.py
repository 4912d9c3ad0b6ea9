"""Choose the artifact that ships per target, and say why the others do not.

Every optimization must pay off on the target, measured interleaved: a candidate in a lower
precision ships only if it is better than its float32 candidate, and a pruned one only if it is
faster than the unpruned one of the same scheme. Each scheme gets one sentence, on its best method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgekd.artifacts.target import Prefer
from edgekd.evidence.candidate import Candidate, Choice
from edgekd.evidence.measurement import LEAST_GAIN
from edgekd.evidence.outcome import Outcome
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.system.files import write_json
from edgekd.system.store import Run


def choose(candidates: Sequence[Candidate], prefer: Prefer) -> tuple[Choice, list[Candidate]]:
    """The choice among one target's `candidates`, and why the others are not chosen."""
    passed = [candidate for candidate in candidates if candidate.outcome is Outcome.PASSED]
    if not passed:
        return Choice(None, _nothing(candidates)), list(candidates)
    by_name = {candidate.name: candidate for candidate in passed}
    not_paid = {
        candidate.name: why
        for candidate in passed
        if (
            why := qat_not_paying(candidate, passed)
            or pruning_not_paying(candidate, by_name, prefer)
            or not_paying(candidate, by_name, prefer)
        )
    }
    paying = [candidate for candidate in passed if candidate.name not in not_paid]
    # The unpruned network ships if no candidate of the pruned one passes and pays off.
    rivals = [candidate for candidate in paying if candidate.network != "unpruned"] or paying
    best = min(rivals, key=lambda candidate: _rank(candidate, prefer))
    others = {
        candidate.name: _other(candidate, best, rivals, prefer)
        for candidate in paying
        if candidate is not best
    }
    details = {**others, **_by_scheme(passed, not_paid, prefer)}
    judged = [
        replace(candidate, detail=details.get(candidate.name, candidate.detail))
        for candidate in candidates
    ]
    why = _first(best, [candidate for candidate in rivals if candidate is not best], prefer)
    return Choice.of(best, why), judged


def qat_not_paying(candidate: Candidate, passed: Sequence[Candidate]) -> str | None:
    """Why QAT did not improve `candidate`; None if it did, or if `candidate` is not from QAT.

    Its accuracy on the validation split must be higher than that of every post-training quantized
    file of its scheme. If none of those passed, QAT pays.
    """
    if candidate.network != "qat":
        return None
    others = [
        other for other in passed if (other.network, other.scheme) == ("student", candidate.scheme)
    ]
    best = max(others, key=_merit, default=None)
    if best is None or _merit(candidate) > _merit(best):
        return None
    return (
        f"{candidate.name} does not pay on {candidate.target}: its validation metric is "
        f"{_validated(candidate):.4f} after QAT, that of {best.name} is {_validated(best):.4f}"
    )


def _merit(candidate: Candidate) -> float:
    return candidate.agreement.validation_merit if candidate.agreement else 0.0


def _validated(candidate: Candidate) -> float:
    return (candidate.agreement.validation_metric or 0.0) if candidate.agreement else 0.0


BEATEN = "no better than"
"""The first words of a detail that only says that the scheme has a better method."""


def _other(
    candidate: Candidate, best: Candidate, rivals: Sequence[Candidate], prefer: Prefer
) -> str:
    """Why `candidate`, which passed and pays off, does not ship."""
    if candidate not in rivals:
        return "passed, not chosen: the pruned network passed and pays off"
    ahead = min(_methods(candidate, rivals), key=lambda other: _rank(other, prefer))
    if candidate is not ahead:
        return f"{BEATEN} {ahead.name}: {_compared(candidate, ahead, prefer)}"
    return f"passed, not chosen: {_compared(candidate, best, prefer)}"


def _methods(candidate: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The `candidates` with the scheme and the network of `candidate`, including itself."""
    return [
        other
        for other in candidates
        if (other.scheme, other.network) == (candidate.scheme, candidate.network)
    ]


def _by_scheme(
    passed: Sequence[Candidate], not_paid: Mapping[str, str], prefer: Prefer
) -> dict[str, str]:
    """`not_paid` with one full sentence per scheme, on its best method.

    If a method of the scheme pays off, that one is the best.
    """
    details = dict(not_paid)
    for candidate in passed:
        if candidate.name not in not_paid:
            continue
        methods = _methods(candidate, passed)
        paying = [other for other in methods if other.name not in not_paid]
        best = min(paying or methods, key=lambda other: _rank(other, prefer, by_time=not paying))
        if candidate is not best:
            details[candidate.name] = f"{BEATEN} {best.name}: {not_paid[candidate.name]}"
        elif len(methods) > 1:
            sentence = not_paid[candidate.name].replace(candidate.name, candidate.scheme, 1)
            details[candidate.name] = (
                f"{sentence}; method {candidate.method}, the best of {len(methods)}"
            )
    return details


def pruning_not_paying(
    candidate: Candidate, passed: Mapping[str, Candidate], prefer: Prefer
) -> str | None:
    """Why the pruned `candidate` is not better than its unpruned counterpart; None if it is.

    It must be faster beyond the noise. If size is preferred, a candidate that is as fast also pays
    off if its file is smaller, zipped or not. If the counterpart did not pass, pruning pays off.
    """
    rival = candidate.first_of(network="unpruned")
    count = _count_ratio(candidate, passed.get(rival))
    if count is not None:
        fewer = count < 1 - LEAST_GAIN
        return None if fewer else _by_count(f"pruned {candidate.scheme}", candidate, rival, count)
    ratio = candidate.measurement.unpruned_ratio if candidate.measurement else None
    whole = passed.get(ratio.parent) if ratio else None
    if ratio is None or whole is None or ratio.high < 1 - LEAST_GAIN:
        return None
    assert candidate.artifact is not None
    assert whole.artifact is not None
    smaller = candidate.artifact.size_bytes < whole.artifact.size_bytes or (
        (candidate.artifact.zipped_bytes or 0) < (whole.artifact.zipped_bytes or 0)
    )
    if prefer == "size" and smaller and ratio.value <= 1 + LEAST_GAIN:
        return None
    return (
        f"pruned {candidate.scheme} does not pay on {candidate.target}: {ratio.value:.2f} times "
        f"the time of {whole.name} ({ratio.low:.2f} to {ratio.high:.2f})"
    )


def not_paying(candidate: Candidate, passed: Mapping[str, Candidate], prefer: Prefer) -> str | None:
    """Why `candidate` is not better than the parent it was timed against; None if it is.

    A slower candidate is not better, nor is one that only noise keeps from being called slower: the
    candidate must show that it pays off. If it is as fast, it is better if its file is smaller. If
    the parent did not pass and so cannot ship, the candidate pays off.
    """
    if candidate.measurement is None:
        first = candidate.in_float
        count = _count_ratio(candidate, passed.get(first))
        if candidate.instructions is not None and candidate.name == first:
            return None
        if count is None:
            return _not_timed(candidate, passed, prefer)
        more = count > 1 + LEAST_GAIN
        return _by_count(candidate.name, candidate, first, count) if more else None
    ratio = candidate.measurement.ratio
    parent = passed.get(ratio.parent) if ratio else None
    if ratio is None or parent is None:
        return None
    if ratio.low > 1 + LEAST_GAIN:
        return (
            f"{candidate.name} does not pay on {candidate.target}: {ratio.value:.2f} times "
            f"the time of {parent.name} ({ratio.low:.2f} to {ratio.high:.2f})"
        )
    if ratio.value > 1 + LEAST_GAIN:
        return (
            f"{candidate.name} is not shown to pay on {candidate.target}: {ratio.value:.2f} times "
            f"the time of {parent.name}, too noisy to tell ({ratio.low:.2f} to {ratio.high:.2f})"
        )
    faster = ratio.high < 1 - LEAST_GAIN
    assert candidate.artifact is not None
    assert parent.artifact is not None
    if not faster and candidate.artifact.size_bytes >= parent.artifact.size_bytes:
        return (
            f"{candidate.name} does not pay on {candidate.target}: {ratio.value:.2f} times "
            f"the time of {parent.name} ({ratio.low:.2f} to {ratio.high:.2f}) and no smaller"
        )
    return None


def _count_ratio(candidate: Candidate, rival: Candidate | None) -> float | None:
    """The instructions of `candidate` over those of `rival`; None if either was not counted."""
    if rival is None or rival.name == candidate.name:
        return None
    if candidate.instructions is None or rival.instructions is None:
        return None
    return candidate.instructions / rival.instructions


def _by_count(what: str, candidate: Candidate, rival: str, ratio: float) -> str:
    return (
        f"{what} does not pay on {candidate.target}: {ratio:.2f} times the instructions of "
        f"{rival}, counted on an emulated core; no latency was measured"
    )


def _not_timed(candidate: Candidate, passed: Mapping[str, Candidate], prefer: Prefer) -> str | None:
    """Why a `candidate` without a latency does not ship; None if it can.

    It can if size is preferred and it is smaller, or if nothing it is compared with passed.
    """
    parent = passed.get(candidate.in_float)
    parent = passed.get("unpruned-fp32", parent) if candidate.network != "unpruned" else parent
    if parent is None or parent.name == candidate.name:
        return None
    assert candidate.artifact is not None
    assert parent.artifact is not None
    if prefer == "size" and candidate.artifact.size_bytes < parent.artifact.size_bytes:
        return None
    return (
        f"{candidate.name} is not shown to pay on {candidate.target}: no latency was measured "
        'there; prefer = "size" would choose it for its size'
    )


ORDER: dict[Prefer, tuple[Prefer, ...]] = {
    "accuracy": ("accuracy", "latency", "size"),
    "latency": ("latency", "size", "accuracy"),
    "size": ("size", "latency", "accuracy"),
}
"""By preference, the figures that decide, in order."""


def _figures(candidate: Candidate) -> dict[Prefer, float]:
    """The figures by which `candidate` is ranked; smaller is better.

    The accuracy is that of the validation split, never that of the test split. The latency is a
    multiple of the parent's, and 1 if the difference is within the noise; for an emulated device it
    is the instruction count.
    """
    ratio = candidate.measurement.ratio if candidate.measurement else None
    noise = ratio is None or ratio.low - LEAST_GAIN <= 1 <= ratio.high + LEAST_GAIN
    return {
        "accuracy": -candidate.agreement.validation_merit if candidate.agreement else 0.0,
        "latency": candidate.instructions or (1.0 if noise or ratio is None else ratio.value),
        "size": float(candidate.artifact.size_bytes) if candidate.artifact else 0.0,
    }


def _rank(candidate: Candidate, prefer: Prefer, *, by_time: bool = False) -> tuple[float, ...]:
    """The sort key of `candidate`, the smallest first; if `by_time`, its median latency first."""
    figures = _figures(candidate)
    ratio = candidate.measurement.ratio if candidate.measurement else None
    if by_time and ratio is not None:
        return ratio.value, *(figures[name] for name in ORDER[prefer])
    return tuple(figures[name] for name in ORDER[prefer])


COMPARISONS: dict[Prefer, str] = {
    "accuracy": "validation metric {0:.4f} against {1:.4f}",
    "latency": "{0:.2f} times the time of the reference against {1:.2f}",
    "size": "{0:.0f} bytes against {1:.0f}",
}


def _compared(candidate: Candidate, rival: Candidate, prefer: Prefer) -> str:
    """`candidate` against `rival` in the first figure in which they differ."""
    ours, theirs = _figures(candidate), _figures(rival)
    differ = next((name for name in ORDER[prefer] if ours[name] != theirs[name]), prefer)
    counted = differ == "latency" and candidate.instructions is not None
    form = "{0:,.0f} instructions against {1:,.0f}" if counted else COMPARISONS[differ]
    return f"{form.format(abs(ours[differ]), abs(theirs[differ]))} for {rival.name}"


def _first(best: Candidate, rivals: Sequence[Candidate], prefer: Prefer) -> str:
    if not rivals:
        return f"{best.name} is the only candidate that passed and pays off"
    runner_up = min(rivals, key=lambda candidate: _rank(candidate, prefer))
    return f"{best.name} passed, pays off and ranks first: {_compared(best, runner_up, prefer)}"


def _nothing(candidates: Sequence[Candidate]) -> str:
    outcomes = [
        f"{candidate.name} {candidate.outcome.value}"
        for candidate in candidates
        if candidate.outcome
    ]
    return f"no candidate passed: {', '.join(outcomes)}"


def step(state: PipelineState, run: Run) -> PipelineState:
    """The state with a choice for every target."""
    chosen: dict[str, Choice] = {}
    with_details: list[Candidate] = []
    for deployment in state.deployments:
        candidates = [
            candidate
            for candidate in state.candidates
            if candidate.target == deployment.target.name
        ]
        choice, judged = choose(candidates, deployment.prefer)
        chosen[deployment.target.name] = choice
        with_details.extend(judged)
    document = {name: vars(choice) for name, choice in chosen.items()}
    write_json(run.folder / "choose" / "chosen.json", document)
    return replace(state, candidates=tuple(with_details), chosen=chosen)
