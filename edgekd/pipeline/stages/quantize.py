"""Find out what every format is calibrated with, and by which methods it is quantized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgekd.evidence.candidate import Row
from edgekd.formats.method_ranking import candidates, dealt
from edgekd.formats.quantization_methods import methods_of, uses_samples
from edgekd.network.architecture import kind_of
from edgekd.pipeline.candidates.calibrate import calibrated
from edgekd.pipeline.candidates.qat import train_rows
from edgekd.pipeline.candidates.state import Work
from edgekd.system.store import Run


def step(work: Work, run: Run) -> Work:
    """The work with its calibration samples, where a scheme needs them, and a row for every
    method that is tried; with the student trained to be rounded, where the recipe asks for it and
    searches for no other way."""
    work = replace(work, rows=tuple(expanded(work.rows, work)))
    if not any(
        uses_samples(row.scheme, method)
        for row in work.rows
        if row.open
        for method in (None, *methods_of(row.format, row.scheme))
    ):
        return work
    work = calibrated(work, run)
    return train_rows(work, run) if work.recipe.quantize.qat_epochs else work


def expanded(rows: Sequence[Row], work: Work) -> list[Row]:
    """`rows`, each that is open as one row for every method of its scheme that suits the student.

    A target has as many as the recipe allows; of the unpruned network the first of each alone.
    """
    if not any(row.open and methods_of(row.format, row.scheme) for row in rows):
        return list(rows)
    kind = kind_of(work.student)
    suited = {
        (row.format, row.scheme): candidates(
            row.format, row.scheme, kind, methods_of(row.format, row.scheme)
        )
        for row in rows
        if row.open
    }
    search = work.recipe.quantize
    found: list[Row] = []
    for goal in work.goals:
        ours = [row for row in rows if row.target == goal.target.name]
        # Of the student alone: what it is compared with need not be the best there is.
        searched = {
            row.scheme: suited[row.format, row.scheme] or ("",)
            for row in ours
            if row.open and row.network == "student"
        }
        most = search.candidates if search.search == "auto" else 0
        chosen = dealt(searched, most)
        for row in ours:
            names = chosen.get(row.scheme, [""]) if row.open else [""]
            names = names if row.network == "student" else names[:1]
            found += [
                replace(row, method=name or None, beside=number > 0)
                for number, name in enumerate(names)
            ]
    return found
