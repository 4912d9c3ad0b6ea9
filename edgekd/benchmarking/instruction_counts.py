"""Instructions of an inference, counted on an emulated core: repeatable, and no time at all."""

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
"""Two cores of phones and boards that int8 is worth another thing to, and what tells them apart:
SDOT and UDOT came with Armv8.2 (Arm Architecture Reference Manual, FEAT_DotProd)."""


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
    if not artifacts:
        return {}
    try:
        return _counted(artifacts, device, inputs)
    except ConversionError as error:
        if len(artifacts) > 1:  # Which one took the runtime down shows alone.
            alone = ({name: artifact} for name, artifact in artifacts.items())
            return {
                k: v for one in alone for k, v in count_instructions(one, device, inputs).items()
            }
        told = Verdict(Outcome.RUN_FAILED, f"{error.faults[0].what} {error.faults[0].got}")
        return dict.fromkeys(artifacts, told)


def _counted(
    artifacts: Mapping[str, Artifact], device: str, inputs: Inputs
) -> dict[str, Verdict | int]:
    # Files of one name each: candidates' names have dots.
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
    """The emulator's version, on which counts depend; None where none is set up."""
    try:
        return str(userland.find().qemu.version)
    except EdgekdError:
        return None
