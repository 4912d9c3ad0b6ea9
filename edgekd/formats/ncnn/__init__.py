"""ncnn, converted by pnnx from TorchScript, run by ncnn.

Source: https://github.com/Tencent/ncnn/wiki, https://github.com/pnnx/pnnx
"""

from __future__ import annotations

from edgekd.formats.ncnn.converter import EXTRA as EXTRA
from edgekd.formats.ncnn.converter import SCHEMES as SCHEMES
from edgekd.formats.ncnn.converter import convert as convert
from edgekd.formats.ncnn.inspect import OPERATORS as OPERATORS
from edgekd.formats.ncnn.inspect import read_graph as read_graph
from edgekd.formats.ncnn.inspect import run_tensors as run_tensors

TITLE = "ncnn"
SUFFIX = ".param"
RUNTIME = "ncnn"
PACKAGES: tuple[str, ...] = ("ncnn", "pnnx")
METHODS: dict[str, dict[str, str]] = {}
SPARSE = (
    "ncnn's kernels multiply zeros like any value: no faster, smaller when zipped "
    "(github.com/Tencent/ncnn/wiki/faq.en, no sparse kernels)"
)
INTEGER_IO_REFUSAL = "ncnn takes and gives float32, whatever it computes in"
FIXED_SHAPES = True  # ncnn has dynamic ones, pnnx writes none.
SINGLE_SAMPLE = True
FP16_COMPUTE = True
