"""The samples that every format is calibrated with: selected, checked, and frozen in a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgekd.data import Inputs, Samples, single
from edgekd.distributed import one_after_the_first
from edgekd.errors import Fault, RecipeError
from edgekd.network import Network
from edgekd.quantization import CalibrationSet, load_calibration, select
from edgekd.quantization.checks import doubts, off_scale, unusable
from edgekd.quantized import uses_samples
from edgekd.samples import read_samples
from edgekd.selecting import looked_at, looked_at_key
from edgekd.store import Run, path_digest, write_json
from edgekd.work import Work

FILE = "calibration.safetensors"
TOLD = "calibration.json"
SEEN = 256
"""Training samples, spread evenly, that the calibration samples are held against."""


def calibration_samples(
    network: Network,
    samples: Samples,
    calibration: CalibrationSet,
    *,
    seed: int,
    features: Tensor | None = None,
    losses: Tensor | None = None,
) -> tuple[Inputs, ...]:
    """The calibration samples for `network`, a batch of one each, in the order quantizers get them.

    Args:
        features, losses: of all samples, where the selection looks at them.

    Raises:
        RecipeError: there are too few samples, or nothing can be measured on the selected ones.
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
        features=features,
        losses=losses,
        seed=seed,
    )
    inputs, _ = samples.take(torch.tensor(ids))
    found = tuple(single(inputs))
    specs = network.signature.inputs
    faults = unusable(found, specs, at=calibration.source, numbers=ids)
    if faults:
        raise RecipeError(*faults)
    return found


def calibrated(work: Work, run: Run) -> Work:
    """The work with its calibration samples; what of them is doubtful is a note of its rows."""
    from safetensors.torch import load_file

    chosen = load_calibration(work.recipe.quantize.calibration, work.base)
    path, doubtful = freeze(work, run, chosen)
    check_digest(chosen, path)
    stacked = load_file(path)
    ordered = {name: stacked[name] for name in work.student.signature.input_names}
    rows = (
        replace(row, notes=(*row.notes, *doubtful))
        if row.open and uses_samples(row.scheme, row.method)
        else row
        for row in work.rows
    )
    return replace(work, calibration=tuple(single(ordered)), rows=tuple(rows))


def check_digest(chosen: CalibrationSet, path: Path) -> None:
    """Raises where the samples at `path` are not those that the set was made of."""
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


def freeze(work: Work, run: Run, chosen: CalibrationSet) -> tuple[Path, list[str]]:
    """The file of the set's samples in the run's folder, and what of them is doubtful.

    Of a set with a file of its own these are the very ones; otherwise they are selected now.

    Raises:
        RecipeError: the data has no such split, or nothing can be measured on the samples.
    """
    from safetensors.torch import save_file

    if chosen.frozen is None and getattr(work.data, chosen.source) is None:
        raise RecipeError(
            Fault(
                what=f"The data has no {chosen.source} split to calibrate with.",
                at=f"calibration set {chosen.name!r}: source",
                got=chosen.source,
                expected="a split that data.load returns",
                fix="use a calibration set of another split",
            )
        )
    key = {
        "set": chosen.to_json(),
        "frozen": path_digest(chosen.frozen) if chosen.frozen else None,
        "data": work.data_key,
        "seed": run.seed,
        "inputs": work.student.signature.input_names,
        "looked_at": None if chosen.frozen else looked_at_key(work, chosen.selection),
    }

    def make(folder: Path) -> None:
        by = chosen.looked_at
        if chosen.frozen is not None:
            check_digest(chosen, chosen.frozen)
            samples = _frozen(chosen, chosen.frozen, work.student)
        else:
            features, losses, by = looked_at(work, chosen.source, chosen.selection)
            samples = calibration_samples(
                work.student,
                work.samples(chosen.source),
                chosen,
                seed=run.seed,
                features=features,
                losses=losses,
            )
        seen = _seen(work)
        faults = off_scale(samples, seen, at=f"calibration set {chosen.name!r}")
        if faults:
            raise RecipeError(*faults)
        names = work.student.signature.input_names
        stacked = {name: torch.cat([sample[name] for sample in samples]) for name in names}
        save_file(stacked, folder / FILE)
        told = {**chosen.to_json(), "looked_at": by, "doubts": doubts(samples, seen)}
        write_json(folder / TOLD, {**told, "sha256": path_digest(folder / FILE)})

    with one_after_the_first():
        folder = run.make("quantize", "", key, make).folder
    doubtful = read_told(folder)["doubts"]
    for sentence in doubtful:
        run.tell("quantize", sentence)
    return folder / FILE, doubtful


def read_told(folder: Path) -> dict[str, Any]:
    """What `freeze` wrote of a set beside its samples."""
    told: dict[str, Any] = json.loads((folder / TOLD).read_text(encoding="utf-8"))
    return told


def _frozen(chosen: CalibrationSet, path: Path, network: Network) -> tuple[Inputs, ...]:
    """The samples in the set's own file."""
    samples = read_samples(path)
    at = str(path)
    faults = unusable(samples, network.signature.inputs, at=at)
    if not faults and len(samples) != chosen.count:
        faults = [
            Fault(
                what="The calibration set's file has not as many samples as the set.",
                at=at,
                got=f"{len(samples)} samples",
                expected=f"count = {chosen.count}",
                fix="make the set again: edgekd calibrate RECIPE",
            )
        ]
    if faults:
        raise RecipeError(*faults)
    names = network.signature.input_names
    return tuple({name: sample[name] for name in names} for sample in samples)


def _seen(work: Work) -> Inputs:
    """Training samples, spread evenly over the split."""
    samples = work.samples("train")
    count = min(SEEN, len(samples))
    return samples.take(torch.arange(count) * len(samples) // count)[0]
