"""What quantization needs besides a format's own quantizer: the samples it is calibrated with."""

from __future__ import annotations

from edgekd.quantization.calibration import (
    CalibrationSet,
    calibration_names,
    check_calibration,
    load_calibration,
)
from edgekd.quantization.selection import SELECTIONS, select

__all__ = [
    "SELECTIONS",
    "CalibrationSet",
    "calibration_names",
    "check_calibration",
    "load_calibration",
    "select",
]
