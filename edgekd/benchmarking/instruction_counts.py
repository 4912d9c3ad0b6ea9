"""Instructions of an inference, counted on an emulated core: repeatable, but not a latency."""

from __future__ import annotations

from collections.abc import Mapping

from edgekd.artifacts.artifact import Artifact
from edgekd.data import Inputs
from edgekd.devices.emulation import userland
from edgekd.devices.execution import batch_of
from edgekd.devices.job import Job, failure_in, run_job
from edgekd.errors import ConversionError, EdgekdError
from edgekd.evidence.outcome import Outcome, Verdict
from edgekd.formats import find_format

DOT_PRODUCTS = {"cortex-a76": "with dot products", "cortex-a72": "without them"}
"""Two cores of phones and boards on which int8 pays off differently.

Only the first has SDOT and UDOT, dot products of int8 (Arm Architecture Reference Manual,
FEAT_DotProd).
"""


def count_instructions(
    artifacts: Mapping[str, Artifact], device: str, inputs: Inputs
) -> dict[str, Verdict | int]:
    """The fewest instructions of one inference on one thread by name, or the failure's verdict.

    Args:
        artifacts: artifacts of one format.
        device: the URL of an emulated device.
        inputs: real samples by name.

    Raises:
        UnreachableError: the device is not set up.
        RecipeError: there is no such emulated device.
    """
    if not artifacts:
        return {}
    try:
        return _count(artifacts, device, inputs)
    except ConversionError as error:
        if len(artifacts) == 1:
            verdict = Verdict(Outcome.RUN_FAILED, f"{error.faults[0].what} {error.faults[0].got}")
            return dict.fromkeys(artifacts, verdict)
    # One at a time, to find the artifact that crashed the runtime.
    counts: dict[str, Verdict | int] = {}
    for name, artifact in artifacts.items():
        counts |= count_instructions({name: artifact}, device, inputs)
    return counts


def _count(
    artifacts: Mapping[str, Artifact], device: str, inputs: Inputs
) -> dict[str, Verdict | int]:
    # Candidates' names have dots, so their folders are numbered.
    names = {f"artifact-{number}": name for number, name in enumerate(artifacts)}
    job = Job(
        action="count",
        runtime=find_format(next(iter(artifacts.values())).format).RUNTIME,
        artifacts={key: artifacts[name].path for key, name in names.items()},
        batches={key: batch_of(artifacts[name]) for key, name in names.items()},
        channels_last={key: artifacts[name].channels_last for key, name in names.items()},
        quantization={key: artifacts[name].quantization for key, name in names.items()},
        threads=1,
        inputs={name: tensor.numpy() for name, tensor in inputs.items()},
    )
    results = run_job(device, job).results
    return {
        name: failure_in(results[key]) or int(results[key]["instructions"]["per_inference"])
        for key, name in names.items()
    }


def counted_by() -> str | None:
    """The emulator's version, which counts depend on; None if it is not set up."""
    try:
        return str(userland.find().qemu.version)
    except EdgekdError:
        return None
