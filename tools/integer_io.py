"""What whole numbers in and out cost: int8 files with float32 and with uint8 ends, side by side.

    python tools/integer_io.py [--only resnet vit] [--formats onnx litert] [--weights DIR]

SQNR in dB and top-1 agreement with the float32 network on 128 fresh samples, of the first method
that suits the network, with 64 samples to calibrate.
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
from edgekd.formats.integer_io import IO_FORMATS
from edgekd.formats.method_ranking import weight_bits
from edgekd.network.network import call
from edgekd.pipeline.candidates.export import NARROW

CALIBRATED_WITH, JUDGED_ON = 64, 128
ENDS: tuple[Io, ...] = ("float32", "uint8")


def compared(name: str, format: str, weights: Path) -> str:
    """A line of the table: the network, the format, its method, and the figures of either end."""
    module, draw = trained(name, weights), NETWORKS[name].draw
    samples = single(draw(CALIBRATED_WITH, torch.Generator().manual_seed(5))[0])
    inputs = draw(JUDGED_ON, torch.Generator().manual_seed(6))[0]
    network = edgekd.load_network(module, example=samples[0])
    with torch.no_grad():
        wanted = call(module, inputs)
    bits = weight_bits(device_facts()["instructions"]) if "int8" in NARROW.get(format, ()) else 7
    cells, method = [], "-"
    for io in ENDS:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                artifact = convert(
                    network, format, "int8", samples, Path(scratch), weight_bits=bits, io=io
                )
            except EdgekdError as error:
                cells.append(f"failed: {error.faults[0].what}")
                continue
            method = str(artifact.lineage["quantizer"]["method"])
            row = fidelity(artifact, inputs, wanted)
        if "error" in row:
            cells.append(f"failed: {row['error']}")
        else:
            cells.append(f"{row['sqnr_db']:.1f} ({100 * float(row['top1'] or 0):.1f} %)")
    return f"| {name} | {format} | {method} | {' -> '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(NETWORKS))
    parser.add_argument("--formats", nargs="*", default=list(IO_FORMATS))
    parser.add_argument("--weights", type=Path, default=Path("build/quantization-matrix/weights"))
    words = parser.parse_args()
    torch.set_num_threads(1)
    for name in words.only:
        for format in words.formats:
            print(compared(name, format, words.weights), flush=True)


if __name__ == "__main__":
    main()
