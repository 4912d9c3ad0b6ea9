"""Instructions of one inference in fp32 and int8, on cores with and without dot products.

    python tools/instruction_counts.py [--only NETWORK]... [--formats litert,onnx] [--json FILE]

The networks are those of `quantization_zoo.py`, untrained, because the work of a kernel does not
depend on the weights. Counts are from the emulated device (`edgekd devices setup emulated`), on one
thread. A count is not a latency: the instructions that a core retires per cycle differ by kernel.
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
    """By scheme and core, the instructions; without those that cannot be exported or counted."""
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
    counted: dict[str, dict[str, int]] = {scheme: {} for scheme in artifacts}
    for core in DOT_PRODUCTS:
        results = count_instructions(artifacts, f"emulated://{core}", samples[0])
        for scheme, count in results.items():
            if isinstance(count, Verdict):
                print(f"  {name} {format} {scheme}: {count.detail}", file=sys.stderr)
            else:
                counted[scheme][core] = count
    return counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=tuple(NETWORKS))
    parser.add_argument("--formats", default="litert,onnx")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results: dict[str, dict[str, dict[str, dict[str, int]]]] = {}
    cores = " | ".join(f"{core}, {text}" for core, text in DOT_PRODUCTS.items())
    print(f"| network, format, scheme | {cores} |\n|---|{'---:|' * len(DOT_PRODUCTS)}")
    for name in args.only or NETWORKS:
        for format in args.formats.split(","):
            with tempfile.TemporaryDirectory() as folder:
                counted = counts(name, format, Path(folder))
            results.setdefault(name, {})[format] = counted
            for scheme, by_core in counted.items():
                cells = [
                    f"{count / 1e6:.2f} M ({count / counted['fp32'][core]:.2f})"
                    for core, count in by_core.items()
                ]
                print(f"| {name} {format} {scheme} | {' | '.join(cells)} |", flush=True)
            if args.json:
                args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
