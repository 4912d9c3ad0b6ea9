"""LiteRT (TFLite), written by litert-torch, quantized by ai-edge-quantizer, run by LiteRT.

Source: https://github.com/google-ai-edge/litert-torch,
https://github.com/google-ai-edge/ai-edge-quantizer
"""

from __future__ import annotations

from edgekd.formats.litert.converter import EXTRA as EXTRA
from edgekd.formats.litert.converter import SCHEMES as SCHEMES
from edgekd.formats.litert.converter import convert as convert
from edgekd.formats.litert.converter import layers as layers
from edgekd.formats.litert.inspect import OPERATORS as OPERATORS
from edgekd.formats.litert.inspect import read_graph as read_graph
from edgekd.formats.litert.inspect import read_weights as read_weights
from edgekd.formats.litert.inspect import run_tensors as run_tensors
from edgekd.formats.litert.integer_io import quantization as quantization
from edgekd.formats.litert.lint_rules import lint as lint
from edgekd.formats.litert.metadata import embed as embed
from edgekd.formats.litert.quantize import METHODS as METHODS
from edgekd.formats.litert.quantizer_rules import QUANTIZER_RULES as QUANTIZER_RULES
from edgekd.formats.litert.ranking import FALLBACKS as FALLBACKS
from edgekd.formats.litert.ranking import RANKING as RANKING

TITLE = "LiteRT"
SUFFIX = ".tflite"
RUNTIME = "litert"
PACKAGES: tuple[str, ...] = ("litert_torch", "ai_edge_litert", "ai_edge_quantizer")
SPARSE = (
    "XNNPACK skips zeros of 1x1 convolutions in networks of only such, in a sparse encoding that "
    "the converter does not write: no faster, smaller when zipped "
    "(tensorflow.org/model_optimization/guide/pruning/pruning_for_on_device_inference)"
)
INTEGER_IO = True
CHANNELS_LAST = True
FIXED_SHAPES = True
