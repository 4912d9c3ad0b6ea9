"""Integer inputs and outputs: the scale and zero point by which integers stand for real values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from numpy.typing import NDArray

Io = Literal["float32", "int8", "uint8"]
"""The data type that a file has for inputs and outputs where its network has float32."""


@dataclass(frozen=True)
class QuantizationParams:
    """How the integers of a tensor stand for real values: value = scale * (integer - zero_point).

    Attributes:
        dtype: the integers' data type, as numpy names it.
    """

    scale: float
    zero_point: int
    dtype: str


def as_numbers(
    arrays: Mapping[str, Any], params: Mapping[str, QuantizationParams]
) -> dict[str, NDArray[Any]]:
    """`arrays` with those named in `params` quantized to the nearest integer and clipped.

    Halves round to even, as in ONNX's QuantizeLinear.
    """
    import numpy as np

    result = {name: np.asarray(value) for name, value in arrays.items()}
    for name, each in params.items():
        if name in result and result[name].dtype.kind == "f":
            limits = np.iinfo(each.dtype)
            # In 64 bits: a float32 quotient may fall on the other side of a half.
            integers = np.rint(result[name].astype(np.float64) / each.scale) + each.zero_point
            result[name] = integers.clip(limits.min, limits.max).astype(each.dtype)
    return result


def as_values(
    arrays: Mapping[str, Any], params: Mapping[str, QuantizationParams]
) -> dict[str, NDArray[Any]]:
    """`arrays` with those named in `params` dequantized to float32."""
    import numpy as np

    result = {name: np.asarray(value) for name, value in arrays.items()}
    for name, each in params.items():
        if name in result and result[name].dtype.kind in "iu":
            shifted = result[name].astype(np.float32) - np.float32(each.zero_point)
            result[name] = shifted * np.float32(each.scale)
    return result
