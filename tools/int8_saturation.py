"""What seven bits of weight instead of eight do to int8 fidelity on this processor.

x86 without VNNI adds two products of 8 bits in 16 and saturates. Prints, for the trap networks of
tests/models.py, the SQNR of ONNX Runtime's and OpenVINO's int8 file against torch both ways, and
LiteRT's, whose kernels do not saturate.

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

EIGHT = "eight bits"
SEVEN = "seven bits"


def onnx_with(bits: str) -> Callable[..., Any]:
    original = quantization.quantize_static

    def quantize(*arguments: Any, **options: Any) -> Any:
        return original(*arguments, **{**options, "reduce_range": bits == SEVEN})

    return quantize


def openvino_with(bits: str) -> Callable[..., Any]:
    original = nncf.quantize
    fix = OverflowFix.ENABLE if bits == SEVEN else OverflowFix.DISABLE

    def quantize(*arguments: Any, **options: Any) -> Any:
        options["advanced_parameters"].overflow_fix = fix
        return original(*arguments, **options)

    return quantize


def sqnr(name: str, format: str) -> str:
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
            return "     -"
        return f"{edgekd.verify(artifact, network, samples, min_agreement=0.0).sqnr_db:6.1f}"


def main() -> None:
    facts = device_facts()
    print(f"{facts['processor']}, {' '.join(facts['instructions'])}; SQNR in dB")
    print(f"{'network':16} onnx: {EIGHT}  {SEVEN}   openvino: {EIGHT}  {SEVEN}   litert")
    for name in TRAPS:
        found = []
        for format, where, patched in (
            ("onnx", quantization, onnx_with),
            ("openvino", nncf, openvino_with),
        ):
            attribute = "quantize_static" if format == "onnx" else "quantize"
            for bits in (EIGHT, SEVEN):
                with mock.patch.object(where, attribute, patched(bits)):
                    found.append(sqnr(name, format))
        found.append(sqnr(name, "litert"))
        cells = "      ".join(found)
        print(f"{name:16}      {cells}", flush=True)


if __name__ == "__main__":
    main()
