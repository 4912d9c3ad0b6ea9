"""Where NNCF inserts FakeQuantize; NNCF 3.4."""

from __future__ import annotations

from collections.abc import Mapping

from edgekd.artifacts.quantizer_rules import (
    AVERAGES,
    MATRIX,
    POOLS,
    RECURRENT,
    WEIGHTED,
    QuantizerRules,
    WeightCodes,
)

QUANTIZER_RULES: Mapping[str, QuantizerRules] = {
    "no-bias-correction": QuantizerRules(
        codes=WeightCodes(-63, 64, 63.5, least_frac=0.01),
        inputs=WEIGHTED
        | MATRIX
        | POOLS
        | AVERAGES
        | {"add", "sub", "mul", "div", "batch_norm", "upsample_bilinear2d"},
        widened=True,
        rectified=False,
        shared=True,
        summed=True,
        by_channel=True,
        averages=False,
        refused=RECURRENT | {"softmax", "layer_norm"},
    )
}
"""True minima and maxima."""
