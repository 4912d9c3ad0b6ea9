"""Which methods of coremltools suit which network; measured, docs/quantization.md."""

from __future__ import annotations

from collections.abc import Mapping

from edgekd.network.architecture import Family

RANKING: Mapping[str, Mapping[Family, tuple[str, ...]]] = {
    "int8": {
        "attention": ("large-weights", "weights", "activations-linear"),
        "recurrent": ("large-weights", "weights"),
        "depthwise": ("large-weights", "weights", "activations"),
        "convolutional": ("large-weights", "weights", "activations"),
        "dense": ("large-weights", "weights", "activations"),
    }
}
FALLBACKS: Mapping[str, tuple[str, ...]] = {
    "int8": ("activations-linear", "weights"),
    "palettized": ("k-means-6-bit", "k-means-8-bit"),
}
