"""The cost of integer I/O: int8 files with float32 and with uint8 inputs and outputs.

    python tools/integer_io.py [--only resnet vit] [--formats onnx litert] [--weights DIR]

Prints SQNR in dB and top-1 agreement with the float32 network on 128 new samples, for the first
method that suits the network, with 64 calibration samples.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from quantization_matrix import fidelity
from quantization_zoo import NETWORKS, trained

import edgekd
from edgekd.artifacts.quantization_params import Io
from edgekd.conversion.export import convert
from edgekd.data import single
from edgekd.devices.on_device.agent import device_facts
from edgekd.errors import EdgekdError
from edgekd.formats.capabilities import has_reduced_range, integer_io_formats
from edgekd.formats.method_ranking import needs_reduced_range
from edgekd.formats.options import ExportOptions
from edgekd.network.network import call

CALIBRATION_COUNT, TEST_COUNT = 64, 128
IO_TYPES: tuple[Io, ...] = ("float32", "uint8")


def line_of(name: str, format: str, weights: Path) -> str:
    """A line of the table: network, format, method, and the figures for float32 -> uint8 I/O."""
    module, draw = trained(name, weights), NETWORKS[name].draw
    samples = single(draw(CALIBRATION_COUNT, torch.Generator().manual_seed(5))[0])
    inputs = draw(TEST_COUNT, torch.Generator().manual_seed(6))[0]
    network = edgekd.load_network(module, example=samples[0])
    with torch.no_grad():
        expected = call(module, inputs)
    reduce_range = not has_reduced_range(format, "int8") or needs_reduced_range(
        device_facts()["instructions"]
    )
    cells, method = [], "-"
    for io in IO_TYPES:
        with tempfile.TemporaryDirectory() as scratch:
            options = ExportOptions(scheme="int8", reduce_range=reduce_range, io=io)
            try:
                artifact = convert(network, format, samples, Path(scratch), options)
            except EdgekdError as error:
                cells.append(f"failed: {error.faults[0].what}")
                continue
            method = str(artifact.lineage["quantizer"]["method"])
            row = fidelity(artifact, inputs, expected)
        if "error" in row:
            cells.append(f"failed: {row['error']}")
        else:
            cells.append(f"{row['sqnr_db']:.1f} ({100 * float(row['top1'] or 0):.1f} %)")
    return f"| {name} | {format} | {method} | {' -> '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(NETWORKS))
    parser.add_argument("--formats", nargs="*", default=integer_io_formats())
    parser.add_argument("--weights", type=Path, default=Path("build/quantization-matrix/weights"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.only:
        for format in args.formats:
            print(line_of(name, format, args.weights), flush=True)


if __name__ == "__main__":
    main()
