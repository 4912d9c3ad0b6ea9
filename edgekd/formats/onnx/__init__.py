"""ONNX, written by torch.onnx, quantized and run by ONNX Runtime.

Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

from edgekd.formats.onnx.converter import EXTRA as EXTRA
from edgekd.formats.onnx.converter import OPSETS as OPSETS
from edgekd.formats.onnx.converter import SCHEMES as SCHEMES
from edgekd.formats.onnx.converter import convert as convert
from edgekd.formats.onnx.converter import layers as layers
from edgekd.formats.onnx.converter import opset_of as opset_of
from edgekd.formats.onnx.inspect import OPERATORS as OPERATORS
from edgekd.formats.onnx.inspect import quantized_tensors as quantized_tensors
from edgekd.formats.onnx.inspect import read_graph as read_graph
from edgekd.formats.onnx.inspect import read_weights as read_weights
from edgekd.formats.onnx.inspect import run_tensors as run_tensors
from edgekd.formats.onnx.integer_io import quantization as quantization
from edgekd.formats.onnx.lint_rules import lint as lint
from edgekd.formats.onnx.metadata import embed as embed
from edgekd.formats.onnx.quantize import METHODS as METHODS
from edgekd.formats.onnx.quantizer_rules import QUANTIZER_RULES as QUANTIZER_RULES
from edgekd.formats.onnx.ranking import FALLBACKS as FALLBACKS
from edgekd.formats.onnx.ranking import RANKING as RANKING

TITLE = "ONNX"
SUFFIX = ".onnx"
RUNTIME = "onnxruntime"
PACKAGES: tuple[str, ...] = ("onnx", "onnxscript", "onnxruntime")
SPARSE = (
    "ONNX Runtime's kernels multiply zeros like any value: no faster, smaller when zipped "
    "(github.com/microsoft/onnxruntime/issues/5578)"
)
INTEGER_IO = True
FP16_COMPUTE = True
REDUCE_RANGE = ("int8", "int8-dynamic")
