"""Calibration sets: which samples activation ranges are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgekd.errors import Fault, RecipeError, listed, nearest
from edgekd.store import data_folder
from edgekd.toml import read_toml

SOURCES = ("train", "validation", "unlabeled")
SELECTIONS = ("random", "stratified", "first")


@dataclass(frozen=True)
class CalibrationSet:
    """A set from `calibration/NAME.toml`.

    Attributes:
        source: the split it is drawn from; never the test split.
        count: how many samples.
        selection: random; stratified (as many of each label); or the first ones.
        licence: of the samples, for the bundle's papers.
        sha256: of the samples, where they are to be these very ones.
    """

    name: str
    source: str
    count: int
    selection: str
    licence: str
    description: str = ""
    sha256: str | None = None


def calibration_names() -> list[str]:
    """The names of the shipped sets."""
    return sorted(path.stem for path in data_folder("calibration").glob("*.toml"))


def load_calibration(reference: str, base: Path) -> CalibrationSet:
    """The set named `reference`, or in the file of that path (relative to `base`).

    Raises:
        RecipeError: there is none, or it is not a valid one.
    """
    named = reference in calibration_names()
    path = data_folder("calibration") / f"{reference}.toml" if named else base / reference
    document = read_toml(path)
    known = [entry.name for entry in fields(CalibrationSet) if entry.name != "name"]
    faults = [
        _fault(path, key, repr(document[key]), listed(known), nearest(key, known))
        for key in document
        if key not in known
    ]
    for key, allowed in (("source", SOURCES), ("selection", SELECTIONS)):
        value = document.get(key)
        if value not in allowed:
            close = nearest(str(value), allowed)
            faults.append(_fault(path, key, repr(value), listed(allowed), close))
    count = document.get("count")
    if not isinstance(count, int) or count < 1:
        faults.append(_fault(path, "count", repr(count), "a whole number over 0", None))
    if not isinstance(document.get("licence"), str):
        faults.append(_fault(path, "licence", repr(document.get("licence")), "a string", None))
    if faults:
        raise RecipeError(*faults)
    return CalibrationSet(name=path.stem, **document)


def select(
    total: int, count: int, selection: str, *, labels: Tensor | None, seed: int
) -> Sequence[int]:
    """The ids of `count` of `total` samples, in the order every quantizer gets them.

    Args:
        labels: of all samples, for a stratified selection.

    Raises:
        ValueError: there are fewer than `count` samples, or stratified without labels.
    """
    if count > total:
        raise ValueError(f"{count} samples asked of {total}")
    generator = torch.Generator().manual_seed(seed)
    if selection == "first":
        return list(range(count))
    order: list[int] = torch.randperm(total, generator=generator).tolist()
    if selection == "random":
        return order[:count]
    if labels is None:
        raise ValueError("a stratified selection needs labels")
    by_label: dict[Any, list[int]] = {}
    for sample in order:
        by_label.setdefault(labels[sample].item(), []).append(sample)
    queues = [by_label[label] for label in sorted(by_label)]
    dealt: list[int] = []
    turn = 0
    while len(dealt) < count:
        queue = queues[turn % len(queues)]
        if queue:
            dealt.append(queue.pop(0))
        turn += 1
    return dealt


def _fault(path: Path, key: str, got: str, expected: str, close: str | None) -> Fault:
    return Fault(
        what=f"{path.name} is not a calibration set.",
        at=f"{path}:{key}",
        got=got,
        expected=expected,
        fix=f"did you mean {close!r}?" if close else f"mend {key} in {path}",
    )
