"""Which methods of ai-edge-quantizer suit which network; measured, docs/quantization.md."""

from __future__ import annotations

from collections.abc import Mapping

from edgekd.network.architecture import Family

RANKING: Mapping[str, Mapping[Family, tuple[str, ...]]] = {
    "int8": {
        "attention": ("linear", "linear-moving-average"),
        "recurrent": ("linear", "min-max"),
        "depthwise": ("min-max", "linear"),
        "convolutional": ("min-max", "moving-average", "linear"),
        "dense": ("min-max", "linear"),
    },
    "int8-int16": {
        "attention": ("linear",),
        "recurrent": ("min-max",),
        "depthwise": ("min-max",),
        "convolutional": ("min-max",),
        "dense": ("min-max",),
    },
}
FALLBACKS: Mapping[str, tuple[str, ...]] = {
    "int8": ("linear", "moving-average", "linear-moving-average", "mse"),
    "int8-int16": ("linear",),
}
