"""Instructions of an inference in float and in int8, on cores with dot products and without.

    python tools/instruction_counts.py [--only NETWORK]... [--formats litert,onnx] [--json FILE]

Networks are those of `quantization_zoo.py`, untrained: what a kernel does is not in the weights.
They are counted on the emulated device (`edgekd devices setup emulated`), one thread; a count is no
time: how many instructions a core retires in a cycle differs by kernel.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import quantization_zoo as zoo
import torch

import edgekd
from edgekd.benchmarking.instruction_counts import DOT_PRODUCTS, count_instructions
from edgekd.evidence.outcome import Verdict

NETWORKS = {"mobilenet-v2": zoo.mobilenet_v2, "resnet": zoo.resnet, "vit": zoo.ViT}
SCHEMES = ("fp32", "int8", "int8-dynamic")
SHAPE = (3, 32, 32)


def counts(name: str, format: str, folder: Path) -> dict[str, dict[str, int]]:
    """By scheme and core, the instructions; none of what could not be written or counted."""
    torch.manual_seed(0)
    network = edgekd.load_network(NETWORKS[name]().eval(), example=torch.randn(1, *SHAPE))
    (input,) = network.signature.input_names
    samples = [{input: torch.randn(1, *SHAPE)} for _ in range(16)]
    artifacts = {}
    for scheme in SCHEMES:
        try:
            artifacts[scheme] = edgekd.export(
                network, format=format, scheme=scheme, calibration=samples, out=folder / scheme
            )
        except edgekd.EdgekdError as error:
            print(f"  {name} {format} {scheme}: {error.faults[0].got}", file=sys.stderr)
    found: dict[str, dict[str, int]] = {scheme: {} for scheme in artifacts}
    for core in DOT_PRODUCTS:
        told = count_instructions(artifacts, f"emulated://{core}", samples[0])
        for scheme, count in told.items():
            if isinstance(count, Verdict):
                print(f"  {name} {format} {scheme}: {count.detail}", file=sys.stderr)
            else:
                found[scheme][core] = count
    return found


def main() -> None:
    """Counts, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=tuple(NETWORKS))
    parser.add_argument("--formats", default="litert,onnx")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, dict[str, dict[str, dict[str, int]]]] = {}
    cores = " | ".join(f"{core}, {told}" for core, told in DOT_PRODUCTS.items())
    print(f"| network, format, scheme | {cores} |\n|---|{'---:|' * len(DOT_PRODUCTS)}")
    for name in options.only or NETWORKS:
        for format in options.formats.split(","):
            with tempfile.TemporaryDirectory() as folder:
                found = counts(name, format, Path(folder))
            results.setdefault(name, {})[format] = found
            for scheme, by_core in found.items():
                cells = [
                    f"{count / 1e6:.2f} M ({count / found['fp32'][core]:.2f})"
                    for core, count in by_core.items()
                ]
                print(f"| {name} {format} {scheme} | {' | '.join(cells)} |", flush=True)
            if options.json:
                options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
