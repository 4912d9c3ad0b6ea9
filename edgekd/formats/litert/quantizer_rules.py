"""Where ai-edge-quantizer quantizes tensors; ai-edge-quantizer 0.10."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgekd.artifacts.quantizer_rules import (
    CONVOLUTIONS,
    FULL_RANGE,
    MATRIX,
    POOLS,
    RECURRENT,
    WEIGHTED,
    QuantizerRules,
)

_ALL = QuantizerRules(
    codes=FULL_RANGE,
    both=WEIGHTED
    | MATRIX
    | POOLS
    | {"add", "sub", "mul", "div", "cat", "sigmoid", "tanh", "hardswish", "gelu", "softmax"}
    | {"batch_norm", "upsample_bilinear2d"},
    fixed={"sigmoid": (0.0, 255 / 256), "softmax": (0.0, 255 / 256), "tanh": (-1.0, 127 / 128)},
    joined=True,
    headroom=0.125,
    decomposed=frozenset({"hardsigmoid", "silu"}),
    refused=RECURRENT,
)
QUANTIZER_RULES: Mapping[str, QuantizerRules] = {
    "min-max": _ALL,
    "linear": replace(_ALL, both=CONVOLUTIONS | {"linear"}, averages=False),
}
"""True minima and maxima, and biases without correction."""
