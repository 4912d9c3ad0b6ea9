"""What quantization needs besides a format's own quantizer: the samples it is calibrated with."""

from __future__ import annotations

from edgekd.quantization.calibration import (
    CalibrationSet,
    calibration_names,
    load_calibration,
    select,
)

__all__ = ["CalibrationSet", "calibration_names", "load_calibration", "select"]
