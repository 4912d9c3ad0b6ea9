"""Where ONNX Runtime's static quantizer inserts QuantizeLinear; onnxruntime 1.32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgekd.artifacts.quantizer_rules import (
    CONVOLUTIONS,
    MATRIX,
    WEIGHTED,
    QuantizerRules,
    WeightCodes,
)

_ALL = QuantizerRules(
    codes=WeightCodes(-64, 64, 64.0),
    both=WEIGHTED
    | MATRIX
    | {"add", "mul", "sigmoid", "cat", "softmax", "leaky_relu", "where", "batch_norm"},
    given=MATRIX | {"linear"},
    decomposed=frozenset({"hardswish", "silu", "linear"}),
)
QUANTIZER_RULES: Mapping[str, QuantizerRules] = {
    "min-max": _ALL,
    "linear": replace(
        _ALL, both=CONVOLUTIONS | MATRIX | {"linear"}, rectified=False, averages=False
    ),
}
"""True minima and maxima, and biases without correction."""
