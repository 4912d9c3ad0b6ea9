"""Which methods of ONNX Runtime's quantizers suit which network; measured, docs/quantization.md."""

from __future__ import annotations

from collections.abc import Mapping

from edgekd.network.architecture import Family

RANKING: Mapping[str, Mapping[Family, tuple[str, ...]]] = {
    "int8": {
        "attention": ("linear", "linear-percentile"),
        "recurrent": ("min-max", "percentile"),
        "depthwise": ("min-max", "percentile", "linear"),
        "convolutional": ("min-max", "percentile"),
        "dense": ("min-max", "percentile"),
    }
}
FALLBACKS: Mapping[str, tuple[str, ...]] = {
    "int8": ("linear", "linear-percentile", "percentile", "mse", "linear-mse", "entropy"),
    "int4-weights": ("block-32", "hqq", "block-16"),
}
