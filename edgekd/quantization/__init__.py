"""What quantization needs besides a format's own quantizer: the samples it is calibrated with, and
which of its methods suit a network."""

from __future__ import annotations

from edgekd.quantization.calibration import (
    CalibrationSet,
    calibration_names,
    load_calibration,
    select,
)
from edgekd.quantization.candidates import candidates, dealt, ladder, weight_bits

__all__ = [
    "CalibrationSet",
    "calibration_names",
    "candidates",
    "dealt",
    "ladder",
    "load_calibration",
    "select",
    "weight_bits",
]
