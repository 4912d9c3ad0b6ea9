"""Which files take and give whole numbers, and the ranges that those stand for.

Static int8 rounds what comes in at once, and what goes out last: with integer inputs and outputs an
app, a camera or an NPU does both, or neither. Where the file's own quantizer has not said in which
steps, they follow from what calibration has seen.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekd.artifacts.quantization_params import QuantizationParams

if TYPE_CHECKING:
    from edgekd.data import Inputs
    from edgekd.network.network import Network

IO_SCHEME = "int8"
IO_FORMATS = ("onnx", "openvino", "litert")
REFUSES = {
    "coreml": "Core ML has arrays of int8 from iOS 26 and macOS 26 on and none of uint8, and "
    "edgekd's packages are for iOS 16 to 18; camera images of uint8 are what an app gives Vision",
    "ncnn": "ncnn takes and gives float32, whatever it computes in",
}
HEADROOM = 0.125
"""Of the range of an output, on either side. A step of int8 grows by a quarter, and outputs beyond
what calibration has seen are not clipped: 10 dB on one small network, at worst 0.4 lost."""


def io_refusal(format: str, scheme: str, io: str) -> str | None:
    """Why a file of `format` in `scheme` does not have whole numbers as `io` says, or None."""
    if io == "float32":
        return None
    if format not in IO_FORMATS:
        return REFUSES.get(format, f"{format} has no such option")
    if scheme != IO_SCHEME:
        return (
            f"only static {IO_SCHEME} rounds its inputs and outputs; {scheme} has them in float32"
        )
    return None


def with_room(low: float, high: float) -> tuple[float, float]:
    """The range of an output, wider than calibration saw it; what is never negative stays so."""
    room = HEADROOM * (high - low)
    return low - room * (low < 0), high + room


def ranges(network: Network, calibration: Sequence[Inputs]) -> dict[str, tuple[float, float]]:
    """The least and largest value of each input and output in float32; of outputs with room."""
    import torch

    from edgekd.network.network import call

    module = copy.deepcopy(network.module).cpu().eval()
    seen: dict[str, list[float]] = {}
    for sample in calibration:
        with torch.no_grad():
            given = call(module, sample)
        for name, value in {**sample, **given}.items():
            if value.dtype == torch.float32:
                seen.setdefault(name, []).extend((float(value.min()), float(value.max())))
    found = {name: (min(values), max(values)) for name, values in seen.items()}
    for spec in network.signature.outputs:
        if spec.name in found:
            wide = (0.0, 1.0) if spec.meaning == "probabilities" else with_room(*found[spec.name])
            found[spec.name] = wide
    return found


def step_of(low: float, high: float, io: str) -> QuantizationParams:
    """The step of 255 that reach from `low` to `high`, and to 0, which is a number itself."""
    import numpy as np

    low, high = min(low, 0.0), max(high, 0.0)
    # As files hold it.
    scale = float(np.float32((high - low) / 255)) or 1.0
    return retyped(QuantizationParams(scale, min(255, max(0, round(-low / scale))), "uint8"), io)


def retyped(step: QuantizationParams, io: str) -> QuantizationParams:
    """`step` for numbers of the other signedness: 128 apart, of the same values."""
    shift = {"uint8": 0, "int8": 128}
    return QuantizationParams(step.scale, step.zero_point + shift[step.dtype] - shift[io], io)
