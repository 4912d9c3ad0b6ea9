"""Whether an artifact gives on a device what it should, before anything is timed there."""

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
    """How `artifact` fails on `device` to give what it should, or None: a wrong one has no latency.

    Args:
        against: a reference of the network that it must agree with on `samples`.
        golden: a bundle that holds it, whose golden vectors it must give.

    Raises:
        RecipeError: the bundle does not hold it.
        UnreachableError: the device cannot be reached, or has no runtime for it.
    """
    try:
        if against is not None:
            network = load_network(against, example=samples[0], weights=weights)
            found = verify(artifact, network, samples, device=device)
            if found.outcome is not Outcome.PASSED:
                return Verdict(found.outcome, f"it does not agree with {against}: {found.detail}")
        if golden is None:
            return None
        bundle = find(golden)
        model = _model(artifact, bundle)
        # The vectors are laid out as the file takes them.
        as_it_is = replace(artifact, lineage={})
        given = vectors.read_inputs(bundle, model)
        ran = run_artifact(as_it_is, given, device, batch=model.inputs[0].shape[0] or 1)
    except (ConversionError, DisagreementError) as error:
        wrong = isinstance(error, DisagreementError)
        return Verdict(Outcome.DISAGREES if wrong else Outcome.RUN_FAILED, error.faults[0].got)
    if isinstance(ran, Verdict):
        return ran
    off = vectors.differences(bundle, model, ran.outputs)
    told = "; ".join(f"{fault.at}: {fault.got}, {fault.expected}" for fault in off)
    return Verdict(Outcome.DISAGREES, told) if off else None


def _model(artifact: Artifact, bundle: Path) -> Model:
    """The model of the bundle that `artifact` is, as it lies there or as the run made it."""
    models = read_manifest(bundle).models
    for model in models:
        there = (bundle / model.entry).resolve() == artifact.path.resolve()
        if there or model.exported_sha256 == artifact.sha256:
            return model
    raise RecipeError(
        Fault(
            what=f"The bundle {bundle} does not hold {artifact.path}.",
            at="--golden",
            got=f"sha256 {artifact.sha256}",
            expected=listed([str(bundle / model.entry) for model in models]),
            fix="time the bundle's own file, or the artifact of the run that made the bundle",
        )
    )
