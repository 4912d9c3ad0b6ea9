"""A reference evaluator of Core ML programs: an `.mlpackage` read back and computed in torch.

Core ML itself runs on Apple's systems alone. What this shows of a file is that it holds the program
and the weights that were meant, quantized, palettized and sparse ones too, and what their declared
precisions cost; not how Apple's compiler fuses, nor what the Neural Engine rounds besides.
Source: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html,
the operators' definitions; coremltools 9.0, mlmodel/format/MIL.proto, the file.
"""

from __future__ import annotations

from edgekd.formats.coreml.mil.program import Program, load_program
from edgekd.formats.reference import UnknownOperatorError

__all__ = ["Program", "UnknownOperatorError", "load_program"]
