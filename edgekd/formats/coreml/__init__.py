"""Core ML programs, written and compressed by coremltools, run by Core ML.

They are written on any system and run on Apple's alone; elsewhere the reference evaluator computes
them. Source: https://apple.github.io/coremltools/docs-guides/
"""

from __future__ import annotations

from edgekd.formats.coreml.converter import EXTRA as EXTRA
from edgekd.formats.coreml.converter import SCHEMES as SCHEMES
from edgekd.formats.coreml.converter import convert as convert
from edgekd.formats.coreml.converter import layers as layers
from edgekd.formats.coreml.inspect import OPERATORS as OPERATORS
from edgekd.formats.coreml.inspect import read_graph as read_graph
from edgekd.formats.coreml.inspect import read_weights as read_weights
from edgekd.formats.coreml.inspect import run_tensors as run_tensors
from edgekd.formats.coreml.lint_rules import lint as lint
from edgekd.formats.coreml.metadata import embed as embed
from edgekd.formats.coreml.mil import load_program
from edgekd.formats.coreml.quantize import METHODS as METHODS
from edgekd.formats.coreml.ranking import FALLBACKS as FALLBACKS
from edgekd.formats.coreml.ranking import RANKING as RANKING

TITLE = "Core ML"
SUFFIX = ".mlpackage"
RUNTIME = "coreml"
PACKAGES: tuple[str, ...] = ("coremltools",)
SPARSE = (
    "Core ML stores weights that are half zeros or more as a bit mask and the rest: a smaller "
    "file; whether it is faster depends on the device, and cannot be measured without one "
    "(apple.github.io/coremltools/docs-guides/source/pruning-overview.html)"
)
SYSTEMS = ("Darwin",)
ACCELERATORS = ("cpu", "gpu", "npu")
INTEGER_IO_REFUSAL = (
    "Core ML has int8 arrays from iOS 26 and macOS 26 on and no uint8 arrays, and edgekd's "
    "packages are for iOS 16 to 18; an app gives camera images in uint8 to Vision"
)
UNSUPPORTED_INPUTS = {"uint8": "Core ML has no uint8 arrays"}
FP16_SCHEMES = tuple(scheme for scheme in SCHEMES if scheme != "fp32")
FP16_COMPUTE = True
reference = load_program
