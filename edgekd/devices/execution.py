"""Runs an artifact on real inputs: in its own runtime, or in its format's reference evaluator."""

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
from edgekd.evidence.sqnr import sqnr_db
from edgekd.formats import find_format
from edgekd.formats.capabilities import reference_evaluator
from edgekd.formats.reference import UnknownOperatorError
from edgekd.network.preprocessing import to_nhwc
from edgekd.system.packages import tool_versions


@dataclass(frozen=True)
class Ran:
    """The result of running an artifact: outputs by name, and facts about its runtime.

    Attributes:
        by_reference: whether the reference evaluator computed them, not the format's own runtime.
        dtypes: the data type of each of the file's inputs, as numpy names it.
    """

    outputs: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    by_reference: bool = False
    dtypes: Mapping[str, str] = field(default_factory=dict)


def run_artifact(
    artifact: Artifact, inputs: Inputs, device: str, *, batch: int | None = None
) -> Ran | Verdict:
    """The artifact's outputs for `inputs`, or how it failed.

    A format's reference evaluator computes them where the device lacks its runtime. Where it has
    the runtime, the evaluator's SQNR against it is among the facts.

    Args:
        batch: samples at a time, if not the artifact's own batch size.

    Raises:
        RecipeError: the device's URL is not valid.
        UnreachableError: the device cannot be reached.
        ConversionError: the runtime's process crashed.
    """
    batch = batch or batch_of(artifact)
    job = Job(
        action="run",
        runtime=find_format(artifact.format).RUNTIME,
        artifacts={"artifact": artifact.path},
        batches={"artifact": batch},
        channels_last={"artifact": artifact.channels_last},
        quantization={"artifact": artifact.quantization},
        threads=1,
        inputs={name: tensor.numpy() for name, tensor in inputs.items()},
    )
    report = run_job(device, job)
    result = report.results["artifact"]
    failed = failure_in(result)
    machine = {name: report.device[name] for name in ("machine", "processor")}
    has_reference = reference_evaluator(artifact.format) is not None
    if failed and has_reference and failed.outcome is Outcome.UNAVAILABLE:
        return _by_reference(artifact, inputs, machine, batch)
    if failed:
        return failed
    outputs = {
        name: torch.from_numpy(np.array(value))
        for name, value in report.outputs["artifact"].items()
    }
    facts = {**result["facts"], **machine}
    if has_reference:
        facts["reference_sqnr_db"] = _reference_sqnr_db(artifact, inputs, outputs, batch)
    # ONNX Runtime calls numpy's float32 "float".
    names = {"float": "float32", "double": "float64"}
    dtypes = {name: names.get(dtype, dtype) for name, _, dtype in result["inputs"]}
    return Ran(outputs, facts, dtypes=dtypes)


def _by_reference(
    artifact: Artifact, inputs: Inputs, machine: Mapping[str, Any], batch: int
) -> Ran | Verdict:
    """The outputs of the format's reference evaluator."""
    load = reference_evaluator(artifact.format)
    assert load is not None
    try:
        program = load(artifact.path)
    except UnknownOperatorError as error:
        return Verdict(Outcome.UNAVAILABLE, str(error))
    except (ValueError, OSError) as error:
        return Verdict(Outcome.LOAD_FAILED, str(error))
    count = len(next(iter(inputs.values())))
    inputs = to_nhwc(inputs, artifact.channels_last)
    try:
        batches = [
            program({name: tensor[i : i + batch] for name, tensor in inputs.items()})
            for i in range(0, count, batch)
        ]
    except (ValueError, NotImplementedError) as error:
        return Verdict(Outcome.RUN_FAILED, str(error))
    outputs = {name: torch.cat([part[name] for part in batches]) for name in batches[0]}
    packages = find_format(artifact.format).PACKAGES
    facts = {
        "runtime": "reference",
        "version": tool_versions(packages).get(packages[0].replace("_", "-")),
        "precision": "float16" if program.half else "float32",
        "operators": sum(program.operators.values()),
        **machine,
    }
    return Ran(outputs, facts, by_reference=True, dtypes=program.inputs)


def _reference_sqnr_db(
    artifact: Artifact, inputs: Inputs, outputs: Mapping[str, Tensor], batch: int
) -> float | None:
    """The SQNR of the reference evaluator against the runtime's `outputs`; None where it cannot run
    or the ratio is infinite."""
    ran = _by_reference(artifact, inputs, {}, batch)
    if isinstance(ran, Verdict):
        return None
    ratio = sqnr_db(outputs, ran.outputs)
    return ratio if math.isfinite(ratio) else None


def batch_of(artifact: Artifact) -> int:
    """The batch size the artifact was exported with, 1 where it is not known."""
    size = artifact.signature.inputs[0].shape[0] if artifact.signature else 1
    return size or 1
