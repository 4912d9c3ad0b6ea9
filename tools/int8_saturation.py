"""What 7-bit weights (reduce_range) instead of 8-bit weights change in int8 on this processor.

x86 without VNNI adds two 8-bit products in 16 bits, which saturates. For the networks of
tests/support/models.py, prints the SQNR against torch of ONNX Runtime's and OpenVINO's int8 file
with both widths, and of LiteRT's, whose kernels do not saturate.

    python tools/int8_saturation.py
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import nncf
import torch
from nncf.quantization.advanced_parameters import OverflowFix
from onnxruntime import quantization

import edgekd
from edgekd.devices.on_device.agent import device_facts

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.models import TRAPS

EIGHT = "8 bits"
SEVEN = "7 bits"


def onnx_with(bits: str) -> Callable[..., Any]:
    """ONNX Runtime's quantizer with weights of so many bits."""
    original = quantization.quantize_static

    def quantize(*args: Any, **options: Any) -> Any:
        return original(*args, **{**options, "reduce_range": bits == SEVEN})

    return quantize


def openvino_with(bits: str) -> Callable[..., Any]:
    """NNCF's quantizer with weights of so many bits."""
    original = nncf.quantize
    fix = OverflowFix.ENABLE if bits == SEVEN else OverflowFix.DISABLE

    def quantize(*args: Any, **options: Any) -> Any:
        options["advanced_parameters"].overflow_fix = fix
        return original(*args, **options)

    return quantize


def sqnr(name: str, format: str) -> str:
    """The SQNR of the int8 file as a cell of the table; "-" if it cannot be exported."""
    trap, generator = TRAPS[name], torch.Generator().manual_seed(0)
    network = edgekd.load_network(trap.build(), example=trap.draw(1, generator))
    calibration = [trap.draw(1, generator) for _ in range(64)]
    samples = [trap.draw(1, generator) for _ in range(128)]
    with tempfile.TemporaryDirectory() as out:
        try:
            artifact = edgekd.export(
                network, format=format, scheme="int8", calibration=calibration, out=out
            )
        except edgekd.EdgekdError:
            return f"{'-':>15}"
        return f"{edgekd.verify(artifact, network, samples, min_agreement=0.0).sqnr_db:15.1f}"


def main() -> None:
    facts = device_facts()
    print(f"{facts['processor']}, {' '.join(facts['instructions'])}; SQNR in dB")
    heads = (f"onnx {EIGHT}", SEVEN, f"openvino {EIGHT}", SEVEN, "litert")
    print("  ".join((f"{'network':16}", *(f"{head:>15}" for head in heads))))
    for name in TRAPS:
        cells = []
        for format, library, attribute, with_bits in (
            ("onnx", quantization, "quantize_static", onnx_with),
            ("openvino", nncf, "quantize", openvino_with),
        ):
            for bits in (EIGHT, SEVEN):
                with mock.patch.object(library, attribute, with_bits(bits)):
                    cells.append(sqnr(name, format))
        cells.append(sqnr(name, "litert"))
        print(f"{name:16}  {'  '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
