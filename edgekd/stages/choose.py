"""Name the artifact that ships per target, and say why the others do not.

A step must pay for itself: a candidate in a lower precision ships only if it is better than the
float32 one it was derived from, on the target, measured side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgekd.evidence import Choice, Outcome, Row
from edgekd.store import Run, write_json
from edgekd.target import Prefer
from edgekd.work import Work

LEAST_GAIN = 0.01
"""Medians of the same model differed by up to 0.5 % interleaved on a busy machine; no difference
under 1 % is claimed."""
PARENT = "fp32"


def choose(rows: Sequence[Row], prefer: Prefer) -> tuple[Choice, list[Row]]:
    """Which of one target's `rows` ships, and the rows with a sentence on why the others do not."""
    passed = [row for row in rows if row.outcome is Outcome.PASSED]
    if not passed:
        return Choice(None, _nothing(rows)), list(rows)
    parent = next((row for row in passed if row.scheme == PARENT), None)
    unpaid = {row.scheme: why for row in passed if parent and (why := not_paying(row, parent))}
    best = min((row for row in passed if row.scheme not in unpaid), key=_ranked(prefer))
    judged = []
    for row in rows:
        if row.scheme in unpaid:
            row = replace(row, detail=unpaid[row.scheme])
        elif row in passed and row is not best:
            row = replace(row, detail=_second(row, best, prefer))
        judged.append(row)
    return Choice(best.scheme, _first(best, len(passed), prefer)), judged


def not_paying(row: Row, parent: Row) -> str | None:
    """Why `row` is not better than the float32 `parent` it was derived from, or None if it is.

    Slower is never better. As fast is better if the file is smaller.
    """
    if row is parent or not row.measurement or not row.measurement.ratio:
        return None
    ratio = row.measurement.ratio
    if ratio.low > 1 + LEAST_GAIN:
        return (
            f"{row.scheme} does not pay on {row.target}: {ratio.value:.2f} times the time of "
            f"{parent.scheme} ({ratio.low:.2f} to {ratio.high:.2f})"
        )
    faster = ratio.high < 1 - LEAST_GAIN
    assert row.artifact is not None
    assert parent.artifact is not None
    if not faster and row.artifact.size_bytes >= parent.artifact.size_bytes:
        return (
            f"{row.scheme} does not pay on {row.target}: {ratio.value:.2f} times the time of "
            f"{parent.scheme} ({ratio.low:.2f} to {ratio.high:.2f}) and no smaller"
        )
    return None


def _ranked(prefer: Prefer):  # type: ignore[no-untyped-def]
    def rank(row: Row) -> tuple[float, ...]:
        figures = {
            "accuracy": -_accuracy(row),
            "latency": _time(row),
            "size": float(row.artifact.size_bytes if row.artifact else 0),
        }
        order = {"accuracy": ("accuracy", "latency", "size"), "latency": ("latency", "size", "accuracy"), "size": ("size", "latency", "accuracy")}
        return tuple(figures[name] for name in order[prefer])

    return rank


def _accuracy(row: Row) -> float:
    """By which candidates are chosen: the validation split, never the one that is reported."""
    agreement = row.agreement
    return agreement.validation_metric or 0.0 if agreement else 0.0


def _time(row: Row) -> float:
    """The median time over the parent's; 1 where the difference is not beyond the noise."""
    ratio = row.measurement.ratio if row.measurement else None
    if ratio is None or ratio.low - LEAST_GAIN <= 1 <= ratio.high + LEAST_GAIN:
        return 1.0
    return ratio.value


def _first(best: Row, count: int, prefer: Prefer) -> str:
    if count == 1:
        return f"{best.scheme} is the only candidate that passed"
    return f"{best.scheme} has the best {prefer} of the {count} candidates that passed"


def _second(row: Row, best: Row, prefer: Prefer) -> str:
    compared = {
        "accuracy": (f"validation {_accuracy(row):.4f}", f"{_accuracy(best):.4f}"),
        "latency": (f"{_time(row):.2f} times the time of {PARENT}", f"{_time(best):.2f}"),
        "size": (_bytes(row), _bytes(best)),
    }
    order: list[Prefer] = [prefer, "accuracy", "latency", "size"]
    differ = next((name for name in order if compared[name][0].split()[-1] != compared[name][1].split()[-1]), prefer)
    ours, theirs = compared[differ]
    return f"passed, not chosen: {differ} {ours} against {theirs} of {best.scheme}"


def _bytes(row: Row) -> str:
    return f"{row.artifact.size_bytes if row.artifact else 0} bytes"


def _nothing(rows: Sequence[Row]) -> str:
    ends = [f"{row.scheme} {row.outcome.value}" for row in rows if row.outcome]
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
