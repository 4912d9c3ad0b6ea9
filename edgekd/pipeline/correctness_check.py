"""Checks that an artifact computes the right outputs on a device before it is timed there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgekd.artifacts.artifact import Artifact
from edgekd.bundles import golden_vectors as vectors
from edgekd.bundles.manifest import Model, read_manifest
from edgekd.bundles.pack import find
from edgekd.data import Inputs
from edgekd.devices.execution import run_artifact
from edgekd.errors import ConversionError, DisagreementError, Fault, RecipeError, listed
from edgekd.evidence.outcome import Outcome, Verdict
from edgekd.network.load import load_network
from edgekd.verification.verify import verify


def disagreement(
    artifact: Artifact,
    device: str,
    *,
    samples: Sequence[Inputs] = (),
    against: str | None = None,
    weights: str | None = None,
    golden: Path | None = None,
) -> Verdict | None:
    """Why `artifact` is not correct on `device`, or None: the latency of a wrong one means nothing.

    Args:
        samples: the samples for `against`.
        against: a reference to the network that the artifact must agree with.
        weights: the weights of that network.
        golden: a bundle that contains the artifact, whose golden vectors it must reproduce.

    Raises:
        RecipeError: the bundle does not contain the artifact.
        UnreachableError: the device cannot be reached, or has no runtime for the artifact.
    """
    try:
        if against is not None:
            network = load_network(against, example=samples[0], weights=weights)
            agreement = verify(artifact, network, samples, device=device)
            if agreement.outcome is not Outcome.PASSED:
                why = f"it does not agree with {against}: {agreement.detail}"
                return Verdict(agreement.outcome, why)
        if golden is None:
            return None
        bundle = find(golden)
        model = _model(artifact, bundle)
        # Golden vectors have the layout and dtype of the file, so no lineage may convert them.
        plain = replace(artifact, lineage={})
        inputs = vectors.read_inputs(bundle, model)
        ran = run_artifact(plain, inputs, device, batch=model.inputs[0].shape[0] or 1)
    except (ConversionError, DisagreementError) as error:
        disagrees = isinstance(error, DisagreementError)
        return Verdict(Outcome.DISAGREES if disagrees else Outcome.RUN_FAILED, error.faults[0].got)
    if isinstance(ran, Verdict):
        return ran
    faults = vectors.differences(bundle, model, ran.outputs)
    why = "; ".join(f"{fault.at}: {fault.got}, {fault.expected}" for fault in faults)
    return Verdict(Outcome.DISAGREES, why) if faults else None


def _model(artifact: Artifact, bundle: Path) -> Model:
    """The bundle's model that `artifact` is: the bundled file, or the run's artifact of it."""
    models = read_manifest(bundle).models
    for model in models:
        bundled = (bundle / model.entry).resolve() == artifact.path.resolve()
        if bundled or model.exported_sha256 == artifact.sha256:
            return model
    raise RecipeError(
        Fault(
            what=f"The bundle {bundle} does not contain {artifact.path}.",
            at="--golden",
            got=f"sha256 {artifact.sha256}",
            expected=listed([str(bundle / model.entry) for model in models]),
            fix="benchmark the bundle's own file, or the artifact of the run that made the bundle",
        )
    )
