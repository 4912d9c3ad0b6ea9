"""Where a format's static int8 quantizer inserts quantizers, as a value that QAT simulates.

Operators are named as torch names them: "conv2d", "linear", "add".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
TRANSPOSED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
WEIGHTED = CONVOLUTIONS | TRANSPOSED | {"linear"}
MATRIX = frozenset({"matmul", "bmm"})
POOLS = frozenset({"mean", "adaptive_avg_pool1d", "adaptive_avg_pool2d"})
AVERAGES = frozenset({"avg_pool1d", "avg_pool2d"})
RECURRENT = frozenset({"gru", "lstm", "rnn_tanh", "rnn_relu"})


@dataclass(frozen=True)
class WeightCodes:
    """The integer codes that a quantizer gives the weights of a channel.

    Attributes:
        low, high: the smallest and the largest code.
        largest: the code, before rounding, of the weight of largest magnitude.
        least_frac: the smallest magnitude a channel is taken to have, as a share of the largest
            magnitude of all channels.
    """

    low: int
    high: int
    largest: float
    least_frac: float = 0.0


FULL_RANGE = WeightCodes(-127, 127, 127.0)
"""The codes of weights in all eight bits."""


@dataclass(frozen=True)
class QuantizerRules:
    """Where one method of a format's quantizer quantizes, and on which grids.

    Attributes:
        codes: the codes of weights.
        both: operators whose inputs and outputs are quantized.
        inputs: operators whose inputs alone are quantized; other readers of the same tensor get it
            in float.
        widened: whether a range is widened until zero has a code; see `widened_grid`.
        rectified: whether an activation is fused with the operator before it.
        shared: whether all inputs of a concatenation share one grid, whatever grid they had.
        joined: whether an input of a concatenation that nothing else reads is on the grid of the
            result.
        averages: whether the output of an average pool stays on the grid of its input.
        fixed: the range of the operators whose output range is constant.
        given: operators whose output is not quantized where it is an output of the network.
        summed: whether a convolution that only sums read is added before it is rounded: in the file
            it is rounded first, but OpenVINO's CPU plugin makes one kernel of the two.
        by_channel: whether a tensor that only depthwise convolutions read has a grid per channel.
        headroom: the share of an output's range that is added on either side.
        decomposed: composite operators that the quantizer sees as several; see
            `decompose_composites`.
        refused: operators that quantize inside, which the simulation cannot follow.
    """

    codes: WeightCodes
    both: frozenset[str] = frozenset()
    inputs: frozenset[str] = frozenset()
    widened: bool = False
    rectified: bool = True
    shared: bool = False
    joined: bool = False
    averages: bool = True
    fixed: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    summed: bool = False
    by_channel: bool = False
    headroom: float = 0.0
    decomposed: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
