"""Instructions of an inference, counted on an emulated core: repeatable, and no time at all."""

from __future__ import annotations

from collections.abc import Mapping

from edgekd.artifact import Artifact
from edgekd.data import Inputs
from edgekd.devices import Job, failure_in, run_job, userland
from edgekd.errors import ConversionError, EdgekdError
from edgekd.evidence import Outcome, Verdict
from edgekd.execution import batch_of
from edgekd.formats import find_format


def count_instructions(
    artifacts: Mapping[str, Artifact], device: str, inputs: Inputs
) -> dict[str, Verdict | int]:
    """By name, the fewest instructions of one inference on one thread, or how it failed.

    Args:
        artifacts: of one format.
        device: an emulated one.
        inputs: real samples by name.

    Raises:
        UnreachableError: the device is not set up.
        RecipeError: there is no such device.
    """
    return {name: _counted(artifact, device, inputs) for name, artifact in artifacts.items()}


def _counted(artifact: Artifact, device: str, inputs: Inputs) -> Verdict | int:
    """Of one artifact alone: what crashes takes no other along."""
    job = Job(
        action="count",
        runtime=find_format(artifact.format).RUNTIME,
        artifacts={"artifact": artifact.path},
        batches={"artifact": batch_of(artifact)},
        channels_last={"artifact": artifact.channels_last},
        quantization={"artifact": artifact.quantization},
        threads=1,
        inputs={name: tensor.numpy() for name, tensor in inputs.items()},
    )
    try:
        result = run_job(device, job).results["artifact"]
    except ConversionError as error:
        return Verdict(Outcome.RUN_FAILED, f"{error.faults[0].what} {error.faults[0].got}")
    return failure_in(result) or int(result["instructions"]["per_inference"])


def counted_by() -> str | None:
    """The emulator's version, on which counts depend; None where none is set up."""
    try:
        return str(userland.find().qemu.version)
    except EdgekdError:
        return None
