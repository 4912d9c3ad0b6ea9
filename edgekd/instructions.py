"""Instructions of an inference, counted on an emulated core: repeatable, and no time at all."""

from __future__ import annotations

from collections.abc import Mapping

from edgekd.artifact import Artifact
from edgekd.data import Inputs
from edgekd.devices import Job, failure_in, run_job
from edgekd.evidence import Verdict
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
        ConversionError: a runtime took its process down.
    """
    job = Job(
        action="count",
        runtime=find_format(next(iter(artifacts.values())).format).RUNTIME,
        artifacts={name: artifact.path for name, artifact in artifacts.items()},
        batches={name: batch_of(artifact) for name, artifact in artifacts.items()},
        threads=1,
        inputs={name: tensor.numpy() for name, tensor in inputs.items()},
    )
    return {
        name: failure_in(result) or int(result["instructions"]["per_inference"])
        for name, result in run_job(device, job).results.items()
    }
