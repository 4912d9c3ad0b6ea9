"""What quantization needs besides a format's own quantizer: the samples it is calibrated with, and
which of its methods suit a network."""

from __future__ import annotations

from edgekd.quantization.calibration import (
    CalibrationSet,
    calibration_names,
    check_calibration,
    load_calibration,
)
from edgekd.quantization.candidates import candidates, dealt, ladder, weight_bits
from edgekd.quantization.selection import SELECTIONS, select

__all__ = [
    "SELECTIONS",
    "CalibrationSet",
    "calibration_names",
    "candidates",
    "check_calibration",
    "dealt",
    "ladder",
    "load_calibration",
    "select",
    "weight_bits",
]
