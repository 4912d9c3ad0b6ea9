"""OpenVINO IR, converted from ONNX, quantized by NNCF, run by OpenVINO.

Source: https://docs.openvino.ai/2025/openvino-workflow/model-optimization.html
"""

from __future__ import annotations

from edgekd.formats.openvino.converter import EXTRA as EXTRA
from edgekd.formats.openvino.converter import SCHEMES as SCHEMES
from edgekd.formats.openvino.converter import convert as convert
from edgekd.formats.openvino.converter import layers as layers
from edgekd.formats.openvino.inspect import OPERATORS as OPERATORS
from edgekd.formats.openvino.inspect import quantized_tensors as quantized_tensors
from edgekd.formats.openvino.inspect import read_graph as read_graph
from edgekd.formats.openvino.inspect import read_weights as read_weights
from edgekd.formats.openvino.inspect import run_tensors as run_tensors
from edgekd.formats.openvino.integer_io import quantization as quantization
from edgekd.formats.openvino.lint_rules import lint as lint
from edgekd.formats.openvino.metadata import embed as embed
from edgekd.formats.openvino.quantize import METHODS as METHODS
from edgekd.formats.openvino.quantize import SAMPLED_METHODS as SAMPLED_METHODS
from edgekd.formats.openvino.quantizer_rules import QUANTIZER_RULES as QUANTIZER_RULES
from edgekd.formats.openvino.ranking import FALLBACKS as FALLBACKS
from edgekd.formats.openvino.ranking import RANKING as RANKING

TITLE = "OpenVINO"
SUFFIX = ".xml"
RUNTIME = "openvino"
PACKAGES: tuple[str, ...] = ("openvino", "nncf", "onnx", "onnxscript")
SPARSE = (
    "OpenVINO skips loading zeros of int8 matrix products on CPUs with AMX, if asked to "
    "(CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE); elsewhere no faster, smaller when zipped "
    "(docs.openvino.ai/2025/notebooks/sparsity-optimization-with-output.html)"
)
INTEGER_IO = True
REDUCE_RANGE = ("int8",)
