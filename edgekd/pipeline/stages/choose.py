"""Name the artifact that ships per target, and say why the others do not.

A step must pay for itself: a candidate in a lower precision ships only if it is better than the
float32 one it was derived from, and a pruned one only if it is faster than the unpruned one in the
same precision, on the target, measured side by side. Of a scheme's methods one alone is told of.
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
    unpaid = {
        candidate.name: why
        for candidate in passed
        if (
            why := training_not_paying(candidate, passed)
            or pruning_not_paying(candidate, by_name, prefer)
            or not_paying(candidate, by_name, prefer)
        )
    }
    paying = [candidate for candidate in passed if candidate.name not in unpaid]
    # The unpruned network goes on where no candidate of the pruned one passes and pays.
    rivals = [candidate for candidate in paying if candidate.network != "unpruned"] or paying
    best = min(rivals, key=lambda candidate: _rank(candidate, prefer))
    others = {
        candidate.name: _other(candidate, best, rivals, prefer)
        for candidate in paying
        if candidate is not best
    }
    told = {**others, **_by_scheme(passed, unpaid, prefer)}
    judged = [
        replace(candidate, detail=told.get(candidate.name, candidate.detail))
        for candidate in candidates
    ]
    why = _first(best, [candidate for candidate in rivals if candidate is not best], prefer)
    return Choice.of(best, why), judged


def training_not_paying(candidate: Candidate, passed: Sequence[Candidate]) -> str | None:
    """Why QAT did not improve `candidate`; None if it did, or if `candidate` is not from QAT.

    Its accuracy on the validation split must be higher than that of every post-training quantized
    file of its scheme. If none of those passed, QAT pays.
    """
    if candidate.network != "qat":
        return None
    others = [
        each for each in passed if (each.network, each.scheme) == ("student", candidate.scheme)
    ]
    best = max(others, key=_validated, default=None)
    if best is None or _validated(candidate) > _validated(best):
        return None
    return (
        f"{candidate.name} does not pay on {candidate.target}: trained to be rounded, "
        f"{_validated(candidate):.4f} on validation against {_validated(best):.4f} of {best.name}"
    )


def _validated(candidate: Candidate) -> float:
    return (candidate.agreement.validation_metric or 0.0) if candidate.agreement else 0.0


BEATEN = "no better than"
"""How the detail of a row begins that says no more than that its scheme has a better method."""


def _other(
    candidate: Candidate, best: Candidate, rivals: Sequence[Candidate], prefer: Prefer
) -> str:
    """Why `candidate`, which passed and pays, is not what ships."""
    if candidate not in rivals:
        return "passed, not chosen: the pruned network passed and pays"
    ahead = min(_ways(candidate, rivals), key=lambda other: _rank(other, prefer))
    if candidate is not ahead:
        return f"{BEATEN} {ahead.name}: {_compared(candidate, ahead, prefer)}"
    return f"passed, not chosen: {_compared(candidate, best, prefer)}"


def _ways(candidate: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those of `candidates` that are of the scheme and the network of `candidate`, itself too."""
    return [
        each
        for each in candidates
        if (each.scheme, each.network) == (candidate.scheme, candidate.network)
    ]


def _by_scheme(
    passed: Sequence[Candidate], unpaid: Mapping[str, str], prefer: Prefer
) -> dict[str, str]:
    """`unpaid` with one sentence a scheme, on its best method; the others are no better than it.

    Where a method of the scheme pays, that is the best.
    """
    told = dict(unpaid)
    for candidate in passed:
        if candidate.name not in unpaid:
            continue
        ways = _ways(candidate, passed)
        paying = [other for other in ways if other.name not in unpaid]
        best = min(paying or ways, key=lambda other: _rank(other, prefer, by_time=not paying))
        if candidate is not best:
            told[candidate.name] = f"{BEATEN} {best.name}: {unpaid[candidate.name]}"
        elif len(ways) > 1:
            sentence = unpaid[candidate.name].replace(candidate.name, candidate.scheme, 1)
            told[candidate.name] = (
                f"{sentence}; by {candidate.method}, the best of {len(ways)} ways"
            )
    return told


def pruning_not_paying(
    candidate: Candidate, passed: Mapping[str, Candidate], prefer: Prefer
) -> str | None:
    """Why the pruned `candidate` is not better than the same unpruned, or None if it is.

    It has to be faster beyond the noise. Where the size is preferred, one as fast also pays if its
    file is smaller, as it is or zipped. Beside one that has not passed, any pays.
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
    """Why `candidate` is not better than the candidate it was timed against, or None if it is.

    Slower is never better, nor is what only noise keeps from being called slower: the candidate has
    to show that it pays. As fast is better if the file is smaller. A parent that has not passed
    could not ship: beside it, any candidate pays.
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
    """The instructions of `candidate` over those of `rival`; None where either was not counted."""
    if rival is None or rival.name == candidate.name:
        return None
    if candidate.instructions is None or rival.instructions is None:
        return None
    return candidate.instructions / rival.instructions


def _by_count(what: str, candidate: Candidate, rival: str, ratio: float) -> str:
    return (
        f"{what} does not pay on {candidate.target}: {ratio:.2f} times the instructions of "
        f"{rival}, counted on an emulated core; nothing was timed"
    )


def _not_timed(candidate: Candidate, passed: Mapping[str, Candidate], prefer: Prefer) -> str | None:
    """Why a `candidate` that no device has timed does not ship: nothing shows that it is faster.

    It may where its size is what is preferred and smaller, or where nothing else passed.
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
        f"{candidate.name} is not shown to pay on {candidate.target}: nothing could time it there; "
        'prefer = "size" takes it for its file'
    )


ORDER: dict[Prefer, tuple[Prefer, ...]] = {
    "accuracy": ("accuracy", "latency", "size"),
    "latency": ("latency", "size", "accuracy"),
    "size": ("size", "latency", "accuracy"),
}
"""What decides, and what decides where that is equal."""


def _figures(candidate: Candidate) -> dict[Prefer, float]:
    """What `candidate` is ranked by; smaller is better.

    Accuracy is that on the validation split, never the one that is reported. The time is a multiple
    of the parent's, and 1 where the difference is not beyond the noise; of an emulated core, its
    instructions.
    """
    ratio = candidate.measurement.ratio if candidate.measurement else None
    noise = ratio is None or ratio.low - LEAST_GAIN <= 1 <= ratio.high + LEAST_GAIN
    return {
        "accuracy": -candidate.agreement.validation_merit if candidate.agreement else 0.0,
        "latency": candidate.instructions or (1.0 if noise or ratio is None else ratio.value),
        "size": float(candidate.artifact.size_bytes) if candidate.artifact else 0.0,
    }


def _rank(candidate: Candidate, prefer: Prefer, *, by_time: bool = False) -> tuple[float, ...]:
    """What `candidate` is ordered by, the least first; `by_time`: its median before all."""
    figures = _figures(candidate)
    ratio = candidate.measurement.ratio if candidate.measurement else None
    if by_time and ratio is not None:
        return ratio.value, *(figures[name] for name in ORDER[prefer])
    return tuple(figures[name] for name in ORDER[prefer])


_TOLD: dict[Prefer, str] = {
    "accuracy": "accuracy on validation {0:.4f} against {1:.4f}",
    "latency": "{0:.2f} times the reference's time against {1:.2f}",
    "size": "{0:.0f} bytes against {1:.0f}",
}


def _compared(candidate: Candidate, rival: Candidate, prefer: Prefer) -> str:
    """How `candidate` stands against `rival` in the first figure that tells them apart."""
    ours, theirs = _figures(candidate), _figures(rival)
    differ = next((name for name in ORDER[prefer] if ours[name] != theirs[name]), prefer)
    counted = differ == "latency" and candidate.instructions is not None
    words = "{0:,.0f} instructions against {1:,.0f}" if counted else _TOLD[differ]
    told = words.format(abs(ours[differ]), abs(theirs[differ]))
    return f"{told} of {rival.name}"


def _first(best: Candidate, rivals: Sequence[Candidate], prefer: Prefer) -> str:
    if not rivals:
        return f"{best.name} is the only candidate that passed and pays"
    runner_up = min(rivals, key=lambda candidate: _rank(candidate, prefer))
    return f"{best.name} passed, pays and is preferred: {_compared(best, runner_up, prefer)}"


def _nothing(candidates: Sequence[Candidate]) -> str:
    ends = [
        f"{candidate.name} {candidate.outcome.value}"
        for candidate in candidates
        if candidate.outcome
    ]
    return f"no candidate passed: {', '.join(ends)}"


def step(state: PipelineState, run: Run) -> PipelineState:
    """The work with a choice for every target."""
    chosen: dict[str, Choice] = {}
    after: list[Candidate] = []
    for deployment in state.deployments:
        candidates = [
            candidate
            for candidate in state.candidates
            if candidate.target == deployment.target.name
        ]
        choice, judged = choose(candidates, deployment.prefer)
        chosen[deployment.target.name] = choice
        after.extend(judged)
    document = {name: vars(choice) for name, choice in chosen.items()}
    write_json(run.folder / "choose" / "chosen.json", document)
    return replace(state, candidates=tuple(after), chosen=chosen)
