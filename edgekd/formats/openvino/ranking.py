"""Which methods of NNCF suit which network; measured, docs/quantization.md."""

from __future__ import annotations

from collections.abc import Mapping

from edgekd.network.architecture import Family

RANKING: Mapping[str, Mapping[Family, tuple[str, ...]]] = {
    "int8": {
        "attention": ("transformer", "transformer-symmetric", "onnxruntime-linear"),
        "recurrent": ("min-max", "no-bias-correction"),
        "depthwise": ("min-max", "no-bias-correction", "symmetric", "onnxruntime"),
        "convolutional": (
            "min-max",
            "no-bias-correction",
            "symmetric",
            "transformer-no-smooth-quant",
            "onnxruntime",
        ),
        "dense": ("min-max", "no-bias-correction", "onnxruntime"),
    }
}
FALLBACKS: Mapping[str, tuple[str, ...]] = {
    "int8": (
        "min-max",
        "mean",
        "quantile",
        "histogram",
        "no-bias-correction",
        "accurate-bias-correction",
        "channel-alignment",
        "transformer-smooth",
        "transformer-no-smooth-quant",
        "onnxruntime",
    ),
    "int4-weights": ("group-32", "scale-estimation", "awq", "gptq"),
}
