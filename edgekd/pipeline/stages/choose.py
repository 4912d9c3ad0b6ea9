"""Name the artifact that ships per target, and say why the others do not.

A step must pay for itself: a candidate in a lower precision ships only if it is better than the
float32 one it was derived from, and a pruned one only if it is faster than the unpruned one in the
same precision, on the target, measured side by side. Of a scheme's methods one alone is told of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgekd.artifacts.target import Prefer
from edgekd.evidence.candidate import Choice, Row
from edgekd.evidence.measurement import LEAST_GAIN
from edgekd.evidence.outcome import Outcome
from edgekd.pipeline.candidates.state import Work
from edgekd.system.files import write_json
from edgekd.system.store import Run


def choose(rows: Sequence[Row], prefer: Prefer) -> tuple[Choice, list[Row]]:
    """Which of one target's `rows` ships, and the rows with a sentence on why the others do not."""
    passed = [row for row in rows if row.outcome is Outcome.PASSED]
    if not passed:
        return Choice(None, _nothing(rows)), list(rows)
    by_name = {row.candidate: row for row in passed}
    unpaid = {
        row.candidate: why
        for row in passed
        if (
            why := training_not_paying(row, passed)
            or pruning_not_paying(row, by_name, prefer)
            or not_paying(row, by_name, prefer)
        )
    }
    paying = [row for row in passed if row.candidate not in unpaid]
    # The unpruned network goes on where no candidate of the pruned one passes and pays.
    rivals = [row for row in paying if row.network != "unpruned"] or paying
    best = min(rivals, key=lambda row: _rank(row, prefer))
    others = {row.candidate: _other(row, best, rivals, prefer) for row in paying if row is not best}
    told = {**others, **_by_scheme(passed, unpaid, prefer)}
    judged = [replace(row, detail=told.get(row.candidate, row.detail)) for row in rows]
    why = _first(best, [row for row in rivals if row is not best], prefer)
    return Choice.of(best, why), judged


def training_not_paying(row: Row, passed: Sequence[Row]) -> str | None:
    """Why training to be rounded did not make `row` better, or None if it did, or was not done.

    Its accuracy on the validation split has to be higher than that of every file of its scheme that
    was rounded after training. Where none has passed, it pays.
    """
    if row.network != "quantized":
        return None
    others = [each for each in passed if (each.network, each.scheme) == ("student", row.scheme)]
    best = max(others, key=_validated, default=None)
    if best is None or _validated(row) > _validated(best):
        return None
    return (
        f"{row.candidate} does not pay on {row.target}: trained to be rounded, "
        f"{_validated(row):.4f} on validation against {_validated(best):.4f} of {best.candidate}"
    )


def _validated(row: Row) -> float:
    return (row.agreement.validation_metric or 0.0) if row.agreement else 0.0


BEATEN = "no better than"
"""How the detail of a row begins that says no more than that its scheme has a better method."""


def _other(row: Row, best: Row, rivals: Sequence[Row], prefer: Prefer) -> str:
    """Why `row`, which passed and pays, is not what ships."""
    if row not in rivals:
        return "passed, not chosen: the pruned network passed and pays"
    ahead = min(_ways(row, rivals), key=lambda other: _rank(other, prefer))
    if row is not ahead:
        return f"{BEATEN} {ahead.candidate}: {_compared(row, ahead, prefer)}"
    return f"passed, not chosen: {_compared(row, best, prefer)}"


def _ways(row: Row, rows: Sequence[Row]) -> list[Row]:
    """Those of `rows` that are of the scheme and the network of `row`, itself too."""
    return [each for each in rows if (each.scheme, each.network) == (row.scheme, row.network)]


def _by_scheme(passed: Sequence[Row], unpaid: Mapping[str, str], prefer: Prefer) -> dict[str, str]:
    """`unpaid` with one sentence a scheme, on its best method; the others are no better than it.

    Where a method of the scheme pays, that is the best.
    """
    told = dict(unpaid)
    for row in passed:
        if row.candidate not in unpaid:
            continue
        ways = _ways(row, passed)
        paying = [other for other in ways if other.candidate not in unpaid]
        best = min(paying or ways, key=lambda other: _rank(other, prefer, by_time=not paying))
        if row is not best:
            told[row.candidate] = f"{BEATEN} {best.candidate}: {unpaid[row.candidate]}"
        elif len(ways) > 1:
            sentence = unpaid[row.candidate].replace(row.candidate, row.scheme, 1)
            told[row.candidate] = f"{sentence}; by {row.method}, the best of {len(ways)} ways"
    return told


def pruning_not_paying(row: Row, passed: Mapping[str, Row], prefer: Prefer) -> str | None:
    """Why the pruned `row` is not better than the same unpruned, or None if it is.

    It has to be faster beyond the noise. Where the size is preferred, one as fast also pays if its
    file is smaller, as it is or zipped. Beside one that has not passed, any pays.
    """
    rival = row.first_of(network="unpruned")
    count = _count_ratio(row, passed.get(rival))
    if count is not None:
        fewer = count < 1 - LEAST_GAIN
        return None if fewer else _by_count(f"pruned {row.scheme}", row, rival, count)
    ratio = row.measurement.unpruned_ratio if row.measurement else None
    whole = passed.get(ratio.parent) if ratio else None
    if ratio is None or whole is None or ratio.high < 1 - LEAST_GAIN:
        return None
    assert row.artifact is not None
    assert whole.artifact is not None
    smaller = row.artifact.size_bytes < whole.artifact.size_bytes or (
        (row.artifact.zipped_bytes or 0) < (whole.artifact.zipped_bytes or 0)
    )
    if prefer == "size" and smaller and ratio.value <= 1 + LEAST_GAIN:
        return None
    return (
        f"pruned {row.scheme} does not pay on {row.target}: {ratio.value:.2f} times the time of "
        f"{whole.candidate} ({ratio.low:.2f} to {ratio.high:.2f})"
    )


def not_paying(row: Row, passed: Mapping[str, Row], prefer: Prefer) -> str | None:
    """Why `row` is not better than the candidate it was timed against, or None if it is.

    Slower is never better, nor is what only noise keeps from being called slower: the candidate has
    to show that it pays. As fast is better if the file is smaller. A parent that has not passed
    could not ship: beside it, any candidate pays.
    """
    if row.measurement is None:
        first = row.in_float
        count = _count_ratio(row, passed.get(first))
        if row.instructions is not None and row.candidate == first:
            return None
        if count is None:
            return _not_timed(row, passed, prefer)
        more = count > 1 + LEAST_GAIN
        return _by_count(row.candidate, row, first, count) if more else None
    ratio = row.measurement.ratio
    parent = passed.get(ratio.parent) if ratio else None
    if ratio is None or parent is None:
        return None
    if ratio.low > 1 + LEAST_GAIN:
        return (
            f"{row.candidate} does not pay on {row.target}: {ratio.value:.2f} times the time of "
            f"{parent.candidate} ({ratio.low:.2f} to {ratio.high:.2f})"
        )
    if ratio.value > 1 + LEAST_GAIN:
        return (
            f"{row.candidate} is not shown to pay on {row.target}: {ratio.value:.2f} times the "
            f"time of {parent.candidate}, too noisy to tell ({ratio.low:.2f} to {ratio.high:.2f})"
        )
    faster = ratio.high < 1 - LEAST_GAIN
    assert row.artifact is not None
    assert parent.artifact is not None
    if not faster and row.artifact.size_bytes >= parent.artifact.size_bytes:
        return (
            f"{row.candidate} does not pay on {row.target}: {ratio.value:.2f} times the time of "
            f"{parent.candidate} ({ratio.low:.2f} to {ratio.high:.2f}) and no smaller"
        )
    return None


def _count_ratio(row: Row, rival: Row | None) -> float | None:
    """The instructions of `row` over those of `rival`; None where either was not counted."""
    if rival is None or rival.candidate == row.candidate:
        return None
    if row.instructions is None or rival.instructions is None:
        return None
    return row.instructions / rival.instructions


def _by_count(what: str, row: Row, rival: str, ratio: float) -> str:
    return (
        f"{what} does not pay on {row.target}: {ratio:.2f} times the instructions of {rival}, "
        "counted on an emulated core; nothing was timed"
    )


def _not_timed(row: Row, passed: Mapping[str, Row], prefer: Prefer) -> str | None:
    """Why a `row` that no device has timed does not ship: nothing shows that it is faster.

    It may where its size is what is preferred and smaller, or where nothing else passed.
    """
    parent = passed.get(row.in_float)
    parent = passed.get("unpruned-fp32", parent) if row.network != "unpruned" else parent
    if parent is None or parent.candidate == row.candidate:
        return None
    assert row.artifact is not None
    assert parent.artifact is not None
    if prefer == "size" and row.artifact.size_bytes < parent.artifact.size_bytes:
        return None
    return (
        f"{row.candidate} is not shown to pay on {row.target}: nothing could time it there; "
        'prefer = "size" takes it for its file'
    )


ORDER: dict[Prefer, tuple[Prefer, ...]] = {
    "accuracy": ("accuracy", "latency", "size"),
    "latency": ("latency", "size", "accuracy"),
    "size": ("size", "latency", "accuracy"),
}
"""What decides, and what decides where that is equal."""


def _figures(row: Row) -> dict[Prefer, float]:
    """What `row` is ranked by; smaller is better.

    Accuracy is that on the validation split, never the one that is reported. The time is a multiple
    of the parent's, and 1 where the difference is not beyond the noise; of an emulated core, its
    instructions.
    """
    ratio = row.measurement.ratio if row.measurement else None
    noise = ratio is None or ratio.low - LEAST_GAIN <= 1 <= ratio.high + LEAST_GAIN
    return {
        "accuracy": -row.agreement.validation_merit if row.agreement else 0.0,
        "latency": row.instructions or (1.0 if noise or ratio is None else ratio.value),
        "size": float(row.artifact.size_bytes) if row.artifact else 0.0,
    }


def _rank(row: Row, prefer: Prefer, *, by_time: bool = False) -> tuple[float, ...]:
    """What `row` is ordered by, the least first; `by_time`: its median before all."""
    figures = _figures(row)
    ratio = row.measurement.ratio if row.measurement else None
    if by_time and ratio is not None:
        return ratio.value, *(figures[name] for name in ORDER[prefer])
    return tuple(figures[name] for name in ORDER[prefer])


_TOLD: dict[Prefer, str] = {
    "accuracy": "accuracy on validation {0:.4f} against {1:.4f}",
    "latency": "{0:.2f} times the reference's time against {1:.2f}",
    "size": "{0:.0f} bytes against {1:.0f}",
}


def _compared(row: Row, rival: Row, prefer: Prefer) -> str:
    """How `row` stands against `rival` in the first figure that tells them apart."""
    ours, theirs = _figures(row), _figures(rival)
    differ = next((name for name in ORDER[prefer] if ours[name] != theirs[name]), prefer)
    counted = differ == "latency" and row.instructions is not None
    words = "{0:,.0f} instructions against {1:,.0f}" if counted else _TOLD[differ]
    told = words.format(abs(ours[differ]), abs(theirs[differ]))
    return f"{told} of {rival.candidate}"


def _first(best: Row, rivals: Sequence[Row], prefer: Prefer) -> str:
    if not rivals:
        return f"{best.candidate} is the only candidate that passed and pays"
    runner_up = min(rivals, key=lambda row: _rank(row, prefer))
    return f"{best.candidate} passed, pays and is preferred: {_compared(best, runner_up, prefer)}"


def _nothing(rows: Sequence[Row]) -> str:
    ends = [f"{row.candidate} {row.outcome.value}" for row in rows if row.outcome]
    return f"no candidate passed: {', '.join(ends)}"


def step(work: Work, run: Run) -> Work:
    """The work with a choice for every target."""
    chosen, rows = {}, []
    for goal in work.goals:
        candidates = [row for row in work.rows if row.target == goal.target.name]
        choice, judged = choose(candidates, goal.prefer)
        chosen[goal.target.name] = choice
        rows.extend(judged)
    document = {name: vars(choice) for name, choice in chosen.items()}
    write_json(run.folder / "choose" / "chosen.json", document)
    return replace(work, rows=tuple(rows), chosen=chosen)
