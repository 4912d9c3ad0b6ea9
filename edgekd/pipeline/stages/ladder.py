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
from edgekd.evidence.candidate import Row
from edgekd.evidence.outcome import Outcome
from edgekd.formats.method_ranking import ladder
from edgekd.formats.quantization_methods import methods_of
from edgekd.pipeline.candidates.export import conversion_of, export_rows
from edgekd.pipeline.candidates.mixed_precision import grouped, layers_of, sqnr_by_group
from edgekd.pipeline.candidates.qat import train_row
from edgekd.pipeline.candidates.state import Work
from edgekd.pipeline.candidates.verify import verify_rows
from edgekd.system.store import Run
from edgekd.training.distributed import alone

MOST_IN_FLOAT = 0.5
"""Of the layers' groups: with more in float, the float file is the better one."""

Rung = Callable[[Sequence[Row], Work, Run], Iterator[tuple[Row, Work]]]
"""Candidates to try next, given those of one target and scheme that missed, each with the work that
has its network; each is asked for only if the one before missed too."""


def step(work: Work, run: Run) -> Work:
    """The work with more rows for every target of which no quantized candidate was accepted."""
    if work.recipe.quantize.search != "auto" or not _student_passes(work):
        return work
    rows: list[Row] = []
    for goal in work.goals:
        ours = [row for row in work.rows if row.target == goal.target.name]
        tried, work = climb(ours, work, run)
        rows += [*ours, *tried]
    return replace(work, rows=tuple(rows))


def climb(rows: Sequence[Row], work: Work, run: Run) -> tuple[list[Row], Work]:
    """What was tried besides `rows`, those of one target, until one was accepted, and the work with
    what was trained for them; of each scheme of which one has missed for what it computes."""
    quantized = [
        row for row in rows if row.network == "student" and methods_of(row.format, row.scheme)
    ]
    tried: list[Row] = []
    if any(_accepted(row, work) for row in quantized):
        return tried, work
    missed = dict.fromkeys(row.scheme for row in quantized if row.outcome is Outcome.DISAGREES)
    for rung in RUNGS:
        for scheme in missed:
            ours = [row for row in [*quantized, *tried] if row.scheme == scheme]
            # What nothing else could mend is trained, however many candidates that took.
            most = work.recipe.quantize.candidates
            room = most if rung is trained else most - sum(row.scheme == scheme for row in tried)
            for row, work in islice(rung(ours, work, run), room):  # noqa: B020  What it has seen.
                run.tell("ladder", f"{row.target} {row.candidate}")
                (row,) = verify_rows(export_rows([row], work, run), work, run)
                tried.append(row)
                if _accepted(row, work):
                    return tried, work
    return tried, work


def _accepted(row: Row, work: Work) -> bool:
    """Whether nothing speaks against `row` so far, its size included: the time is not known yet."""
    limit = work.goal(row).budget.size_bytes
    fits = limit is None or row.artifact is None or row.artifact.size_bytes <= limit
    return row.open and fits


def _student_passes(work: Work) -> bool:
    """Whether the student itself is accepted: what is wrong with it, no quantizer mends."""
    against, ours = work.teacher_score, work.student_score
    if against is None or ours is None:
        return True
    return ours.metric >= against.metric - work.recipe.accept.max_drop


def other_methods(
    rows: Sequence[Row],
    work: Work,
    run: Run,  # noqa: ARG001
) -> Iterator[tuple[Row, Work]]:
    """The methods of the format that were not tried, in the ladder's order."""
    first = rows[0]
    tried = [row.method for row in rows if row.method]
    for method in ladder(first.format, first.scheme, tried, methods_of(first.format, first.scheme)):
        yield _again(first, method=method), work


def sensitive_layers(rows: Sequence[Row], work: Work, run: Run) -> Iterator[tuple[Row, Work]]:
    """The best so far with its most sensitive layers in float: one group of them, two, four.

    How much a group costs is measured on files in which it alone is quantized, on the calibration
    samples. In combination the groups that cost most are joined, to half of them at most.
    """
    # Layers have names in the target's format: what was quantized in another cannot keep them.
    judged = [
        row
        for row in rows
        if row.agreement is not None and not (row.method or "").startswith("onnxruntime")
    ]
    if not judged:
        return
    # Where other operators are quantized too, their tensors stay so around a layer in float.
    linear = [row for row in judged if row.method and "linear" in row.method]
    best = max(linear or judged, key=_fidelity)
    conversion = conversion_of(best, work)
    target = work.goal(best).target
    run.tell("ladder", f"{best.target} {best.candidate}: how much each layer costs")
    try:
        layers = layers_of(conversion.network, best.format, target.channels_last)
    except EdgekdError:
        return
    groups = grouped(layers)
    options = work.recipe.export
    found = sqnr_by_group(
        replace(conversion, calibration=conversion.calibration or work.calibration),
        groups,
        processes=options.processes,
        timeout_s=options.timeout_s,
    )
    order = sorted(found, key=lambda group: found[group])
    count = 1
    while count <= max(1, int(MOST_IN_FLOAT * len(groups))) and count <= len(order):
        kept = tuple(name for group in order[:count] for name in group)
        yield _again(best, method=best.method, keep=kept), work
        count *= 2


def trained(rows: Sequence[Row], work: Work, run: Run) -> Iterator[tuple[Row, Work]]:
    """The student trained to be rounded as its file will be, where the recipe has epochs for it.

    One process trains it: others that took part in the stages before are gone.
    """
    first = rows[0]
    if not work.recipe.quantize.qat_epochs or first.scheme != "int8":
        return
    row = Row(first.target, first.format, first.scheme, network="quantized")
    run.tell("ladder", f"{row.target} {row.candidate}: trained to be rounded")
    try:
        with alone():
            row, work = train_row(row, work, replace(run, spawn=None))
    except EdgekdError as error:
        why = f"{error.faults[0].what} {error.faults[0].got}"
        row = replace(row, outcome=Outcome.CONVERT_FAILED, detail=why)
    yield row, work


RUNGS: tuple[Rung, ...] = (other_methods, sensitive_layers, trained)
"""In order, the cheapest first."""


def _fidelity(row: Row) -> tuple[float, float]:
    """The metric on validation, then the SQNR: by the test split nothing is chosen."""
    assert row.agreement is not None
    return row.agreement.validation_metric or 0.0, row.agreement.sqnr_db


def _again(row: Row, *, method: str | None, keep: tuple[str, ...] = ()) -> Row:
    """An open row like `row`, of another method or with layers in float."""
    return Row(
        row.target, row.format, row.scheme, network=row.network, method=method, keep=keep,
        beside=True,
    )  # fmt: skip
