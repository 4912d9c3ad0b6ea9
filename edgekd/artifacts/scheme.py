"""The precisions an artifact can have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scheme:
    """One precision of weights and activations.

    Attributes:
        weight_bits: bits of a stored weight.
        activation_bits: bits in which activations are computed.
        calibrated: whether activation ranges are measured on calibration samples.
        sqnr_floor_db: the smallest signal-to-quantization-noise ratio, against the float32 network,
            of a correct conversion. It is the unit roundoff of the data type in dB (about 6.02 dB
            per bit of significand: 24 for fp32, 11 for fp16, 8 for int8 and bf16), minus the
            accumulation through a deep network (measured on fourteen networks: fp32 stays above 110
            dB, fp16 above 58, int8 drops to 10-15 after a wrong conversion).
    """

    name: str
    weight_bits: int
    activation_bits: int
    calibrated: bool
    sqnr_floor_db: float


FP32 = Scheme("fp32", 32, 32, calibrated=False, sqnr_floor_db=90.0)
FP16 = Scheme("fp16", 16, 16, calibrated=False, sqnr_floor_db=45.0)
BF16 = Scheme("bf16", 32, 16, calibrated=False, sqnr_floor_db=30.0)
INT8 = Scheme("int8", 8, 8, calibrated=True, sqnr_floor_db=15.0)
INT8_DYNAMIC = Scheme("int8-dynamic", 8, 8, calibrated=False, sqnr_floor_db=20.0)
INT8_WEIGHTS = Scheme("int8-weights", 8, 32, calibrated=False, sqnr_floor_db=25.0)
INT8_INT16 = Scheme("int8-int16", 8, 16, calibrated=True, sqnr_floor_db=20.0)
INT4_WEIGHTS = Scheme("int4-weights", 4, 32, calibrated=False, sqnr_floor_db=8.0)
PALETTIZED = Scheme("palettized", 4, 16, calibrated=False, sqnr_floor_db=8.0)

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        FP32, FP16, BF16, INT8, INT8_DYNAMIC, INT8_WEIGHTS, INT8_INT16, INT4_WEIGHTS, PALETTIZED,
    )
}  # fmt: skip
