"""Calibration sets: which samples activation ranges are measured on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edgekd.calibration.selection import SELECTIONS
from edgekd.errors import Fault, RecipeError, listed, nearest
from edgekd.system.files import data_folder
from edgekd.system.toml import read_toml

SOURCES = ("train", "validation", "unlabeled")
NOT_TOLD = ("name", "frozen")
LABELLED = ("stratified", "worst-loss")
"""Selections that look at labels."""
TEXTS = ("description", "preprocessing", "looked_at", "sha256")


@dataclass(frozen=True)
class CalibrationSet:
    """A set from `calibration/NAME.toml`.

    Attributes:
        source: the split it is drawn from; never the test split.
        count: how many samples.
        selection: one of `SELECTIONS`.
        licence: of the samples, for the bundle's papers.
        preprocessing: what was done to the raw data, in words.
        looked_at: what the selection went by, in words.
        sha256: of the file of samples, where they are to be these very ones.
        frozen: that file, `NAME.safetensors` beside the set, where it is there.
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
        """A JSON object, which is what the file of the set says, and its name."""
        told = {key: value for key, value in vars(self).items() if key != "frozen"}
        return {key: value for key, value in told.items() if value not in (None, "")}


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
    return check_calibration(read_toml(path), path)


def check_calibration(document: dict[str, Any], path: Path) -> CalibrationSet:
    """The set that `document` describes, which is, or will be, in the file at `path`.

    Raises:
        RecipeError: it is not a valid one; all faults are told.
    """
    known = [entry.name for entry in fields(CalibrationSet) if entry.name not in NOT_TOLD]
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
    for key in ("licence", *(key for key in TEXTS if key in document)):
        if not isinstance(document.get(key), str):
            faults.append(_fault(path, key, repr(document.get(key)), "a string", None))
    if document.get("source") == "unlabeled" and document.get("selection") in LABELLED:
        why = f"train or validation, which have the labels that {document['selection']} looks at"
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
        fix=f"did you mean {close!r}?" if close else f"mend {key} in {path}",
    )
