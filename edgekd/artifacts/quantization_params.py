"""Inputs and outputs as whole numbers: what a file is given for real values, and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from numpy.typing import NDArray

Io = Literal["float32", "int8", "uint8"]
"""What a file has where its network has float32."""


@dataclass(frozen=True)
class QuantizationParams:
    """What the numbers of a tensor stand for: value = scale * (number - zero_point).

    Attributes:
        dtype: of the numbers, as numpy names it.
    """

    scale: float
    zero_point: int
    dtype: str


def as_numbers(
    arrays: Mapping[str, Any], steps: Mapping[str, QuantizationParams]
) -> dict[str, NDArray[Any]]:
    """`arrays`, those that `steps` name as the nearest numbers; what lies beyond is at an end.

    Halves go to the even number, as ONNX's QuantizeLinear has it.
    """
    import numpy as np

    found = {name: np.asarray(value) for name, value in arrays.items()}
    for name, step in steps.items():
        if name in found and found[name].dtype.kind == "f":
            ends = np.iinfo(step.dtype)
            # In 64 bits: a quotient of float32 may end on the other side of a half.
            numbers = np.rint(found[name].astype(np.float64) / step.scale) + step.zero_point
            found[name] = numbers.clip(ends.min, ends.max).astype(step.dtype)
    return found


def as_values(
    arrays: Mapping[str, Any], steps: Mapping[str, QuantizationParams]
) -> dict[str, NDArray[Any]]:
    """`arrays`, those that `steps` name as the values in float32 that their numbers stand for."""
    import numpy as np

    found = {name: np.asarray(value) for name, value in arrays.items()}
    for name, step in steps.items():
        if name in found and found[name].dtype.kind in "iu":
            numbers = found[name].astype(np.float32) - np.float32(step.zero_point)
            found[name] = numbers * np.float32(step.scale)
    return found
