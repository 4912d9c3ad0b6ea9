"""Calibration sets: which samples activation ranges are measured on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edgekd.calibration.selection import SELECTIONS, current_name
from edgekd.errors import Fault, RecipeError, listed, nearest
from edgekd.system.files import data_folder
from edgekd.system.toml import read_toml

SOURCES = ("train", "validation", "unlabeled")
"""The splits that a set may be drawn from; the test split is for results only."""
NOT_KEYS = ("name", "frozen")
"""Attributes of a set that are not keys of its file."""
LABELLED = ("stratified", "highest-loss")
"""Selections that need labels."""
STRINGS = ("description", "preprocessing", "looked_at", "sha256")
"""Optional keys that are strings."""


@dataclass(frozen=True)
class CalibrationSet:
    """A set from `calibration/NAME.toml`.

    Attributes:
        source: the split it is drawn from, one of `SOURCES`.
        count: the number of samples.
        selection: one of `SELECTIONS`.
        licence: the licence of the samples, for the bundle's documents.
        preprocessing: a description of how the raw data was preprocessed.
        looked_at: a description of the features or losses that the selection used.
        sha256: the digest of the file of samples; None if other samples are allowed.
        frozen: the file of samples, `NAME.safetensors` beside the set; None if there is none.
    """

    name: str
    source: str
    count: int
    selection: str
    licence: str
    description: str = ""
    preprocessing: str = ""
    looked_at: str = ""
    sha256: str | None = None
    frozen: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """The name of the set and the keys of its file, as a JSON object."""
        document = {key: value for key, value in vars(self).items() if key != "frozen"}
        return {key: value for key, value in document.items() if value not in (None, "")}


def calibration_names() -> list[str]:
    """The names of the shipped sets."""
    return sorted(path.stem for path in data_folder("calibration").glob("*.toml"))


def load_calibration(reference: str, base: Path) -> CalibrationSet:
    """The shipped set named `reference`, or the set in the file `reference` (relative to `base`).

    Raises:
        RecipeError: there is no such set, or it is not valid.
    """
    named = reference in calibration_names()
    path = data_folder("calibration") / f"{reference}.toml" if named else base / reference
    return check_calibration(read_toml(path), path)


def check_calibration(document: dict[str, Any], path: Path) -> CalibrationSet:
    """The set that `document` describes, the content of the file at `path`.

    Raises:
        RecipeError: it is not valid; all faults are reported.
    """
    if "selection" in document:
        document = {**document, "selection": current_name(document["selection"])}
    known = [entry.name for entry in fields(CalibrationSet) if entry.name not in NOT_KEYS]
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
        faults.append(_fault(path, "count", repr(count), "an integer above 0", None))
    for key in ("licence", *(key for key in STRINGS if key in document)):
        if not isinstance(document.get(key), str):
            faults.append(_fault(path, key, repr(document.get(key)), "a string", None))
    if document.get("source") == "unlabeled" and document.get("selection") in LABELLED:
        why = f"train or validation, which have the labels that {document['selection']} needs"
        faults.append(_fault(path, "source", "'unlabeled'", why, None))
    if faults:
        raise RecipeError(*faults)
    frozen = path.with_suffix(".safetensors")
    return CalibrationSet(name=path.stem, frozen=frozen if frozen.is_file() else None, **document)


def _fault(path: Path, key: str, got: str, expected: str, close: str | None) -> Fault:
    return Fault(
        what=f"{path.name} is not a calibration set.",
        at=f"{path}:{key}",
        got=got,
        expected=expected,
        fix=f"did you mean {close!r}?" if close else f"change {key} in {path}",
    )
