"""The samples that every format is calibrated with: selected, checked, and frozen in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgekd.calibration.calibration_set import CalibrationSet
from edgekd.calibration.checks import unusable
from edgekd.calibration.selection import select
from edgekd.data import Inputs, Samples, single
from edgekd.errors import Fault, RecipeError
from edgekd.network.network import Network
from edgekd.network.sample_files import read_samples
from edgekd.system.files import path_digest

FILE = "calibration.safetensors"
RECORD = "calibration.json"


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
        features, losses: of all samples, if the selection needs them.

    Raises:
        RecipeError: there are too few samples, or the selected ones are unusable.
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
    selected = tuple(single(inputs))
    specs = network.signature.inputs
    faults = unusable(selected, specs, at=calibration.source, numbers=ids)
    if faults:
        raise RecipeError(*faults)
    return selected


def check_digest(chosen: CalibrationSet, path: Path) -> None:
    """Raises a RecipeError if the samples at `path` are not those that the set was made of."""
    if chosen.sha256 is not None and chosen.sha256 != path_digest(path):
        raise RecipeError(
            Fault(
                what="The calibration samples are not the ones the set was made of.",
                at=f"calibration set {chosen.name!r}: sha256",
                got=path_digest(path),
                expected=chosen.sha256,
                fix="use the data it was made of, or write the new digest into the set",
            )
        )


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a frozen set that is stored beside its samples."""
    record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return record


def read_frozen_samples(chosen: CalibrationSet, path: Path, network: Network) -> tuple[Inputs, ...]:
    """The samples in the set's own file."""
    samples = read_samples(path)
    at = str(path)
    faults = unusable(samples, network.signature.inputs, at=at)
    if not faults and len(samples) != chosen.count:
        faults = [
            Fault(
                what="The calibration set's file has the wrong number of samples.",
                at=at,
                got=f"{len(samples)} samples",
                expected=f"count = {chosen.count}",
                fix="create the set again: edgekd calibrate RECIPE",
            )
        ]
    if faults:
        raise RecipeError(*faults)
    names = network.signature.input_names
    return tuple({name: sample[name] for name in names} for sample in samples)
