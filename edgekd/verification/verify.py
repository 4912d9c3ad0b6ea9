"""`edgekd.verify`: runs one artifact in its own runtime and compares it with its network."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from edgekd.artifacts.artifact import Artifact
from edgekd.artifacts.target import Evidence, is_emulated
from edgekd.data import Inputs, joined
from edgekd.devices.execution import run_artifact
from edgekd.devices.job import failure_error
from edgekd.errors import Fault, RecipeError, listed
from edgekd.evidence.agreement import Agreement
from edgekd.evidence.outcome import Verdict
from edgekd.formats.capabilities import laid_out, read_quantization
from edgekd.network.dynamic_shapes import fits
from edgekd.network.network import Network, call
from edgekd.verification.compare import compare

MIN_AGREEMENT = 0.99


def verify(
    artifact: Artifact,
    network: Network,
    samples: Sequence[Inputs],
    *,
    device: str = "local",
    min_agreement: float = MIN_AGREEMENT,
) -> Agreement:
    """Compares `artifact`, run in its own runtime on `device`, with `network` on `samples`.

    Where the device lacks the runtime, a format's reference evaluator computes the file, and the
    agreement's evidence says so.

    Args:
        samples: inputs by name, batch first; each a multiple of the artifact's batch.
        min_agreement: the smallest share of samples with the same largest class, if there are
            classes.

    Raises:
        RecipeError: there is no sample, or one does not fit the network.
        ConversionError: the runtime cannot load or run the artifact.
        UnreachableError: the device cannot be reached, or has no runtime for it.
    """
    if not samples:
        raise RecipeError(_no_samples())
    for number, sample in enumerate(samples):
        _check_fit(network, sample, number)
    reference = _reference(network, samples)
    artifact = laid_out(read_quantization(artifact), network)
    ran = run_artifact(artifact, joined(samples), device)
    if isinstance(ran, Verdict):
        raise failure_error(ran, artifact)
    evidence: Evidence = "emulated" if is_emulated(device) else "device"
    return compare(
        reference,
        ran.outputs,
        scheme=artifact.scheme,
        min_agreement=min_agreement,
        evidence="reference" if ran.by_reference else evidence,
        runtime=ran.facts,
    )


def _reference(network: Network, samples: Sequence[Inputs]) -> dict[str, Tensor]:
    """The network's outputs in eval mode, one sample at a time: a program's batch may be fixed."""
    module = copy.deepcopy(network.module).cpu().eval()
    with torch.no_grad():
        found = [call(module, sample) for sample in samples]
    return {name: torch.cat([each[name] for each in found]) for name in found[0]}


def _check_fit(network: Network, sample: Inputs, number: int) -> None:
    for spec in network.signature.inputs:
        tensor = sample.get(spec.name)
        dtype = str(tensor.dtype).removeprefix("torch.") if tensor is not None else ""
        if tensor is None or not fits(tensor.shape, spec, but_batch=True) or dtype != spec.dtype:
            found = f"{tuple(tensor.shape)} {dtype}" if tensor is not None else listed(sample)
            raise RecipeError(
                Fault(
                    what="A sample does not fit the network.",
                    at=f"sample {number}, input {spec.name}",
                    got=found,
                    expected=f"{spec.shape} {spec.dtype}",
                    fix="give each input by name, batch first",
                )
            )


def _no_samples() -> Fault:
    return Fault(
        what="An artifact cannot be verified without samples.",
        at="samples",
        got="none",
        expected="real inputs, as many as you have",
        fix="give samples=[{input name: tensor}, ...], on the command line --samples FILE",
    )
