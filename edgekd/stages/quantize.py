"""Choose and freeze the samples that every format is calibrated with, and the methods to try."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from edgekd.data import Inputs, Samples, single
from edgekd.errors import Fault, RecipeError
from edgekd.evidence import Row
from edgekd.kinds import kind_of
from edgekd.network import Network
from edgekd.quantization import (
    CalibrationSet,
    candidates,
    dealt,
    load_calibration,
    select,
)
from edgekd.quantized import methods_of, uses_samples
from edgekd.store import Run, path_digest
from edgekd.work import Work

FILE = "calibration.safetensors"


def quantize(
    network: Network, samples: Samples, calibration: CalibrationSet, *, seed: int
) -> tuple[Inputs, ...]:
    """The calibration samples for `network`, a batch of one each, in the order quantizers get them.

    Raises:
        RecipeError: there are too few samples, or they hold a NaN or an infinity.
    """
    if calibration.count > len(samples):
        raise RecipeError(
            Fault(
                what="There are fewer samples than the calibration set asks for.",
                at=f"quantize.calibration = {calibration.name!r}",
                got=f"{len(samples)} samples in the {calibration.source} split",
                expected=f"at least {calibration.count}",
                fix="use a smaller calibration set",
            )
        )
    stratified = calibration.selection == "stratified"
    ids = select(
        len(samples),
        calibration.count,
        calibration.selection,
        labels=samples.labels() if stratified else None,
        seed=seed,
    )
    inputs, _ = samples.take(torch.tensor(ids))
    for name in network.signature.input_names:
        tensor = inputs[name]
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            broken = [ids[i] for i, value in enumerate(tensor) if not torch.isfinite(value).all()]
            raise RecipeError(
                Fault(
                    what="A calibration sample holds a NaN or an infinity.",
                    at=f"input {name}, {calibration.source} samples {broken[:8]}",
                    got=f"{len(broken)} such samples of {len(ids)}",
                    expected="finite values",
                    fix="mend or remove these samples; ranges measured on them mean nothing",
                )
            )
    return tuple(single(inputs))


def step(work: Work, run: Run) -> Work:
    """The work with its calibration samples, where a scheme needs them, and a row for every
    method that is tried."""
    work = replace(work, rows=tuple(expanded(work.rows, work)))
    if not any(
        uses_samples(row.scheme, method)
        for row in work.rows
        if row.open
        for method in (None, *methods_of(row.format, row.scheme))
    ):
        return work
    return _calibrated(work, run)


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


def _calibrated(work: Work, run: Run) -> Work:
    from safetensors.torch import load_file, save_file

    chosen = load_calibration(work.recipe.quantize.calibration, work.base)
    if getattr(work.data, chosen.source) is None:
        raise RecipeError(
            Fault(
                what=f"The data has no {chosen.source} split to calibrate with.",
                at=f"calibration set {chosen.name!r}: source",
                got=chosen.source,
                expected="a split that data.load returns",
                fix="use a calibration set of another split",
            )
        )

    def make(folder: Path) -> None:
        samples = quantize(work.student, work.samples(chosen.source), chosen, seed=run.seed)
        names = work.student.signature.input_names
        stacked = {name: torch.cat([sample[name] for sample in samples]) for name in names}
        save_file(stacked, folder / FILE)

    key = {
        "set": vars(chosen),
        "data": work.data_key,
        "seed": run.seed,
        "inputs": work.student.signature.input_names,
    }
    path = run.make("quantize", "", key, make).folder / FILE
    if chosen.sha256 is not None and chosen.sha256 != path_digest(path):
        raise RecipeError(
            Fault(
                what="The calibration samples are not the ones the set was made of.",
                at=f"calibration set {chosen.name!r}: sha256",
                got=path_digest(path),
                expected=chosen.sha256,
                fix="use the data it was made of, or put the new digest into the set",
            )
        )
    stacked = load_file(path)
    ordered = {name: stacked[name] for name in work.student.signature.input_names}
    return replace(work, calibration=tuple(single(ordered)))
