"""Say of every quantized artifact what it did to each layer of its network, as data."""

from __future__ import annotations

from pathlib import Path

import torch

from edgekd.artifacts.scheme import SCHEMES
from edgekd.data import single
from edgekd.evidence.candidate import Row
from edgekd.formats.inspection import TENSOR_READERS
from edgekd.network.network import network_key
from edgekd.pipeline.candidates.state import Work
from edgekd.system.files import write_json
from edgekd.system.store import Run
from edgekd.verification.layer_sensitivity import SAMPLES, sensitivity

FILE = "sensitivity.json"


def step(work: Work, run: Run) -> Work:
    """The work as it is; beside it, for each quantized artifact, `TARGET-CANDIDATE/`.

    Those that disagree with their network are looked at too: there it is asked why.
    """
    validation = work.samples("validation")
    count = min(SAMPLES, len(validation))
    samples = single(validation.take(torch.arange(count))[0])
    rows = [row for row in work.rows if _quantized(row)]
    for number, row in enumerate(rows):
        run.tell("sensitivity", f"{row.target} {row.candidate}", number + 1, len(rows))
        artifact, network = row.artifact, work.network(row)
        assert artifact is not None

        def make(folder: Path, row: Row = row) -> None:
            assert row.artifact is not None
            layers = sensitivity(row.artifact, work.network(row), samples)
            document = {
                "target": row.target,
                "candidate": row.candidate,
                "artifact": row.artifact.sha256,
                "samples": len(samples),
                "layers": [layer.to_json() for layer in layers],
            }
            write_json(folder / FILE, document)

        key = {
            "artifact": artifact.sha256,
            "network": network_key(network),
            "data": work.data_key,
        }
        run.make("sensitivity", f"{row.target}-{row.candidate}", key, make)
    return work


def _quantized(row: Row) -> bool:
    if row.artifact is None or row.format not in TENSOR_READERS:
        return False
    return SCHEMES[row.scheme].weight_bits <= 8
