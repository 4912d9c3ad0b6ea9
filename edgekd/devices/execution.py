"""Run an artifact on real inputs: in its own runtime, or where there is none, by reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgekd.artifacts.artifact import Artifact
from edgekd.data import Inputs
from edgekd.devices.job import Job, failure_in, run_job
from edgekd.evidence.outcome import Outcome, Verdict
from edgekd.formats import find_format
from edgekd.formats.coreml.mil import UnknownOperatorError, load_program
from edgekd.network.preprocessing import turned
from edgekd.system.packages import tool_versions


@dataclass(frozen=True)
class Ran:
    """What running an artifact gave: outputs by name, and what its runtime says of itself.

    Attributes:
        by_reference: whether the reference evaluator computed them, not the format's own runtime.
        dtypes: of the file's inputs by name, as numpy names them.
    """

    outputs: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    by_reference: bool = False
    dtypes: Mapping[str, str] = field(default_factory=dict)


def run_artifact(
    artifact: Artifact, inputs: Inputs, device: str, *, batch: int | None = None
) -> Ran | Verdict:
    """The artifact's outputs for `inputs`, or how it failed.

    Args:
        batch: samples at a time, where it is not the artifact's own.

    Where Core ML has no runtime the reference evaluator computes it; where it has one, both do.

    Raises:
        RecipeError: there is no way to such a device.
        UnreachableError: it cannot be reached.
        ConversionError: the runtime took its process down.
    """
    job = Job(
        action="run",
        runtime=find_format(artifact.format).RUNTIME,
        artifacts={"artifact": artifact.path},
        batches={"artifact": batch or batch_of(artifact)},
        channels_last={"artifact": artifact.channels_last},
        quantization={"artifact": artifact.quantization},
        threads=1,
        inputs={name: tensor.numpy() for name, tensor in inputs.items()},
    )
    report = run_job(device, job)
    result = report.results["artifact"]
    failed = failure_in(result)
    machine = {name: report.device[name] for name in ("machine", "processor")}
    if failed and (artifact.format != "coreml" or failed.outcome is not Outcome.UNAVAILABLE):
        return failed
    if failed:
        return _by_reference(artifact, inputs, machine, batch)
    outputs = {
        name: torch.from_numpy(np.array(value))
        for name, value in report.outputs["artifact"].items()
    }
    facts = {**result["facts"], **machine}
    if artifact.format == "coreml":
        facts["reference_sqnr_db"] = _beside_reference(artifact, inputs, outputs, batch)
    # What ONNX Runtime calls float is numpy's float32.
    named = {"float": "float32", "double": "float64"}
    dtypes = {name: named.get(dtype, dtype) for name, _, dtype in result["inputs"]}
    return Ran(outputs, facts, dtypes=dtypes)


def _by_reference(
    artifact: Artifact, inputs: Inputs, machine: Mapping[str, Any], batch: int | None = None
) -> Ran | Verdict:
    """What the reference evaluator computes of a Core ML program."""
    try:
        program = load_program(artifact.path)
    except UnknownOperatorError as error:
        return Verdict(Outcome.UNAVAILABLE, str(error))
    except (ValueError, OSError) as error:
        return Verdict(Outcome.LOAD_FAILED, str(error))
    count, batch = len(next(iter(inputs.values()))), batch or batch_of(artifact)
    inputs = turned(inputs, artifact.channels_last)
    try:
        found = [
            program({name: tensor[i : i + batch] for name, tensor in inputs.items()})
            for i in range(0, count, batch)
        ]
    except (ValueError, NotImplementedError) as error:
        return Verdict(Outcome.RUN_FAILED, str(error))
    outputs = {name: torch.cat([each[name] for each in found]) for name in found[0]}
    facts = {
        "runtime": "reference",
        "version": tool_versions(("coremltools",)).get("coremltools"),
        "precision": "float16" if program.half else "float32",
        "operators": sum(program.operators.values()),
        **machine,
    }
    return Ran(outputs, facts, by_reference=True, dtypes=program.inputs)


def _beside_reference(
    artifact: Artifact, inputs: Inputs, outputs: Mapping[str, Tensor], batch: int | None = None
) -> float | None:
    """How well the reference evaluator agrees with Core ML itself; None where it cannot run."""
    ran = _by_reference(artifact, inputs, {}, batch)
    if isinstance(ran, Verdict):
        return None
    signal = sum(float((value.double() ** 2).sum()) for value in outputs.values())
    noise = sum(
        float(((value.double() - ran.outputs[name].double()) ** 2).sum())
        for name, value in outputs.items()
    )
    return 10 * math.log10(signal / noise) if signal and noise else None


def batch_of(artifact: Artifact) -> int:
    """The batch size the artifact was exported with, 1 where it is not known."""
    size = artifact.signature.inputs[0].shape[0] if artifact.signature else 1
    return size or 1
