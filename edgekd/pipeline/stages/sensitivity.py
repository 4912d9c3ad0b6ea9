"""Report the quantization error of each layer of every quantized artifact."""

from __future__ import annotations

from pathlib import Path

import torch

from edgekd.artifacts.scheme import SCHEMES
from edgekd.data import single
from edgekd.evidence.candidate import Candidate
from edgekd.formats.inspection import has_tensor_reader
from edgekd.network.network import network_key
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.system.files import write_json
from edgekd.system.store import Run
from edgekd.verification.layer_sensitivity import SAMPLES, layer_sensitivity

FILE = "sensitivity.json"


def step(state: PipelineState, run: Run) -> PipelineState:
    """The unchanged state; the run gets a folder `TARGET-CANDIDATE/` per quantized artifact.

    Artifacts that disagree with their network are included, because the errors explain why.
    """
    validation = state.samples("validation")
    count = min(SAMPLES, len(validation))
    samples = single(validation.take(torch.arange(count))[0])
    candidates = [candidate for candidate in state.candidates if _quantized(candidate)]
    for number, candidate in enumerate(candidates):
        run.progress(
            "sensitivity", f"{candidate.target} {candidate.name}", number + 1, len(candidates)
        )
        artifact, network = candidate.artifact, state.network(candidate)
        assert artifact is not None

        def make(folder: Path, candidate: Candidate = candidate) -> None:
            assert candidate.artifact is not None
            layers = layer_sensitivity(candidate.artifact, state.network(candidate), samples)
            document = {
                "target": candidate.target,
                "candidate": candidate.name,
                "artifact": candidate.artifact.sha256,
                "samples": len(samples),
                "layers": [layer.to_json() for layer in layers],
            }
            write_json(folder / FILE, document)

        key = {
            "artifact": artifact.sha256,
            "network": network_key(network),
            "data": state.data_key,
        }
        run.make("sensitivity", f"{candidate.target}-{candidate.name}", key, make)
    return state


def _quantized(candidate: Candidate) -> bool:
    if candidate.artifact is None or not has_tensor_reader(candidate.format):
        return False
    return SCHEMES[candidate.scheme].weight_bits <= 8
