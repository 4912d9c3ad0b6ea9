"""Which methods of a format's quantizers suit a network, the best first.

No method wins everywhere. What the order says was measured on fourteen networks and four runtimes
(docs/quantization.md): all operators in int8 are fastest and cost attention 25 dB, averaged ranges
lose up to 19 dB on convolutional classifiers and win 2 on U-Nets, dynamic int8 is 2 to 3 times as
fast on matrix products and five times as slow on depthwise convolutions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from edgekd.network.architecture import Architecture, Word

_STATIC: Mapping[Word, tuple[str, ...]] = {
    "attention": ("linear", "linear-percentile"),
    "recurrent": ("min-max", "percentile"),
    "depthwise": ("min-max", "percentile", "linear"),
    "convolutional": ("min-max", "percentile"),
    "dense": ("min-max", "percentile"),
}
_NNCF: Mapping[Word, tuple[str, ...]] = {
    "attention": ("transformer", "transformer-symmetric", "onnxruntime-linear"),
    "recurrent": ("min-max", "min-max-uncorrected"),
    "depthwise": ("min-max", "min-max-uncorrected", "symmetric", "onnxruntime"),
    "convolutional": (
        "min-max", "min-max-uncorrected", "symmetric", "transformer-unsmoothed", "onnxruntime",
    ),
    "dense": ("min-max", "min-max-uncorrected", "onnxruntime"),
}  # fmt: skip
_LITERT: Mapping[Word, tuple[str, ...]] = {
    "attention": ("linear", "linear-moving-average"),
    "recurrent": ("linear", "min-max"),
    "depthwise": ("min-max", "linear"),
    "convolutional": ("min-max", "moving-average", "linear"),
    "dense": ("min-max", "linear"),
}
_COREML: Mapping[Word, tuple[str, ...]] = {
    "attention": ("large-weights", "weights", "activations-linear"),
    "recurrent": ("large-weights", "weights"),
    "depthwise": ("large-weights", "weights", "activations"),
    "convolutional": ("large-weights", "weights", "activations"),
    "dense": ("large-weights", "weights", "activations"),
}

CANDIDATES: Mapping[tuple[str, str], Mapping[Word, tuple[str, ...]]] = {
    ("onnx", "int8"): _STATIC,
    ("openvino", "int8"): _NNCF,
    ("litert", "int8"): _LITERT,
    ("litert", "int8-int16"): {**dict.fromkeys(_LITERT, ("min-max",)), "attention": ("linear",)},
    ("coreml", "int8"): _COREML,
}
"""By format and scheme, what is tried of a network whose kind is this word. Of others, which have
few methods, all are."""

LADDERS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("onnx", "int8"): (
        "linear", "linear-percentile", "percentile", "mse", "linear-mse", "entropy",
    ),
    ("openvino", "int8"): (
        "min-max", "mean", "quantile", "histogram", "min-max-uncorrected", "slow-correction",
        "channel-alignment", "transformer-smooth", "transformer-unsmoothed", "onnxruntime",
    ),
    ("litert", "int8"): (
        "linear", "moving-average", "linear-moving-average", "mse",
    ),
    ("litert", "int8-int16"): ("linear",),
    ("coreml", "int8"): ("activations-linear", "weights"),
    ("coreml", "palettized"): ("k-means-6-bit", "k-means-8-bit"),
    ("onnx", "int4-weights"): ("block-32", "half-quadratic", "block-16"),
    ("openvino", "int4-weights"): ("group-32", "scale-estimation", "awq", "gptq"),
}  # fmt: skip
"""What is tried next, in this order, of a scheme whose candidates all missed what is accepted:
other ranges, then corrections and roundings, from the cheapest on."""


def ranked_methods(
    format: str, scheme: str, kind: Architecture, methods: Collection[str]
) -> tuple[str, ...]:
    """The methods to try, the best first; of `methods`, which are those that the format has.

    Empty where the format has none to choose from.
    """
    by_kind = CANDIDATES.get((format, scheme))
    chosen = by_kind[kind.word] if by_kind else tuple(methods)
    # Where weights are all large, or none is, it gives the file of "weights", or that of no scheme.
    useless = () if kind.uneven else ("large-weights",)
    return tuple(name for name in chosen if name in methods and name not in useless)


def fallback_methods(
    format: str, scheme: str, tried: Collection[str], methods: Collection[str]
) -> tuple[str, ...]:
    """The methods left to try of a scheme whose candidates missed, in order."""
    order = LADDERS.get((format, scheme), tuple(methods))
    return tuple(name for name in order if name in methods and name not in tried)


def share_trials(by_scheme: Mapping[str, Sequence[str]], count: int) -> dict[str, list[str]]:
    """Of every scheme's methods the first, then the second and so on, `count` in all at most."""
    found: dict[str, list[str]] = {scheme: [] for scheme in by_scheme}
    most = max(map(len, by_scheme.values()), default=0)
    for turn in range(most):
        for scheme, names in by_scheme.items():
            if turn < len(names) and (turn == 0 or sum(map(len, found.values())) < count):
                found[scheme].append(names[turn])
    return found


DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "asimddp", "i8mm", "amx_int8")
"""Instructions that add products of 8 bits in 32: eight bits of weight do not saturate."""


def weight_bits(instructions: Collection[str] | None) -> int:
    """In how many bits int8 weights are safe on a processor with these instructions; None: unknown.

    x86 without VNNI adds two products of 8 bits in 16 and saturates: on an AVX2 machine eight bits
    of weight lost 1 to 14 dB against seven, which are safe on every processor.
    """
    return 8 if set(instructions or ()).intersection(DOT_PRODUCTS) else 7
