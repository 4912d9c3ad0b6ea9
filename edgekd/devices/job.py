"""A job that runs on a device: its files, its report, its failures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekd.artifacts.artifact import Artifact, parts
from edgekd.artifacts.quantization_params import QuantizationParams, as_numbers, as_values
from edgekd.devices import DEVICES, Device, find_device
from edgekd.devices.on_device import ON_DEVICE
from edgekd.devices.on_device.agent import VERSION
from edgekd.devices.report import Report as Report
from edgekd.devices.report import read_report
from edgekd.errors import (
    ConversionError,
    DisagreementError,
    EdgekdError,
    Fault,
    UnreachableError,
)
from edgekd.evidence.outcome import Outcome, Verdict
from edgekd.formats.capabilities import agent_runtime
from edgekd.system.files import path_digest
from edgekd.system.scratch import scratch_folder
from edgekd.system.store import copy_tree

AGENT = ON_DEVICE / "agent.py"


@dataclass(frozen=True)
class Job:
    """The agent's task.

    Attributes:
        action: "run" the inputs through the artifacts, "time" them, or "count" the instructions of
            an inference on an emulated device.
        runtime: the agent's name for the runtime.
        artifacts: the path of each artifact by name.
        batches: the batch size that each artifact was exported with.
        channels_last: by artifact, the inputs that it takes as NHWC; `inputs` are NCHW.
        quantization: by artifact, the scales and zero points of its integer inputs and outputs;
            `inputs` and the returned outputs are real values.
        inputs: arrays by input name, samples first; None for random arrays of its shapes.
        providers: ONNX Runtime's execution providers to prefer to the CPU's. If they take no
            nodes, the artifact fell back.
        options: of the measurement; see the agent.
    """

    action: str
    runtime: str
    artifacts: Mapping[str, Path]
    threads: int
    batches: Mapping[str, int] = field(default_factory=dict)
    channels_last: Mapping[str, Sequence[str]] = field(default_factory=dict)
    quantization: Mapping[str, Mapping[str, QuantizationParams]] = field(default_factory=dict)
    inputs: Mapping[str, Any] | None = None
    providers: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = 1800.0


def run_job(url: str, job: Job) -> Report:
    """Run `job` on the device at `url`.

    Raises:
        RecipeError: no connection has the URL's scheme.
        UnreachableError: the device cannot be reached.
        ConversionError: the runtime crashed the agent's process.
    """
    device = find_device(url)
    with scratch_folder("job") as scratch:
        folder = scratch
        _write_job(job, folder)
        _run_agent(device, url, folder, job.timeout_s)
        timed = bool(job.options.get("runs"))
        report = read_report(url, folder, job.action, job.artifacts, timed=timed)
    outputs = {
        name: as_values(arrays, job.quantization.get(name, {}))
        for name, arrays in report.outputs.items()
    }
    return replace(report, outputs=outputs)


def _run_agent(device: Device, url: str, folder: Path, timeout_s: float) -> None:
    """Let the connection run the agent; what a connection of a package raises is its own fault."""
    try:
        device.run_agent(url, folder, timeout_s=timeout_s)
    except EdgekdError:
        raise
    except Exception as error:
        kind = url.partition("://")[0]
        if kind in DEVICES:
            raise
        raise UnreachableError(
            Fault(
                what=f"The device connection {kind!r} of an installed package failed.",
                at=f"device {url}",
                got=f"{type(error).__name__}: {error}",
                expected="an agent that ran, or an edgekd.errors.UnreachableError",
                fix='report it to the package that the connection is from, or use device = "local"',
            )
        ) from error


def _write_job(job: Job, folder: Path) -> None:
    """Write the agent, `job.json` and the files that it names into `folder`."""
    import numpy as np

    entries = [_write_artifact(job, name, path, folder) for name, path in job.artifacts.items()]
    if job.inputs is not None and not all("inputs" in entry for entry in entries):
        np.savez(folder / "inputs.npz", **job.inputs)
    document = {
        "version": VERSION,
        "action": job.action,
        "runtime": job.runtime,
        "threads": job.threads,
        "artifacts": entries,
        "inputs": "inputs.npz" if (folder / "inputs.npz").exists() else None,
        "providers": list(job.providers),
        **job.options,
    }
    runtime_file = agent_runtime(job.runtime)
    if runtime_file is not None:
        shutil.copyfile(runtime_file, folder / "runtime.py")
        document["runtime_file"] = "runtime.py"
    (folder / "job.json").write_text(json.dumps(document))
    shutil.copyfile(AGENT, folder / "agent.py")


def _write_artifact(job: Job, name: str, path: Path, folder: Path) -> dict[str, Any]:
    """Copy an artifact, and its own inputs if it takes integers; returns its entry in the job."""
    import numpy as np

    (folder / name).mkdir()
    for part in parts(path):
        target = folder / name / part.name
        if part.is_dir():
            copy_tree(part, target)
        else:
            shutil.copyfile(part, target)
    entry: dict[str, Any] = {
        "name": name,
        "path": f"{name}/{path.name}",
        "batch": job.batches.get(name, 1),
        "channels_last": list(job.channels_last.get(name, ())),
    }
    parameters = job.quantization.get(name)
    if parameters and job.inputs is not None:
        integers: dict[str, Any] = as_numbers(job.inputs, parameters)
        np.savez(folder / f"inputs-{name}.npz", **integers)
        entry["inputs"] = f"inputs-{name}.npz"
    sent = sorted(part for part in (folder / name).rglob("*") if part.is_file())
    entry["files"] = {p.relative_to(folder).as_posix(): path_digest(p) for p in sent}
    return entry


def failure_in(result: Mapping[str, Any]) -> Verdict | None:
    """The failure in the agent's result for an artifact, or None."""
    failure = result["failure"]
    return Verdict(Outcome(failure["outcome"]), failure["detail"]) if failure else None


def failure_error(verdict: Verdict, artifact: Artifact) -> EdgekdError:
    """The error that stands for a failed artifact outside a pipeline."""
    unavailable = verdict.outcome is Outcome.UNAVAILABLE
    wrong = verdict.outcome in (Outcome.DISAGREES, Outcome.FELL_BACK)
    fault = Fault(
        what=f"{artifact.path.name} could not be run: {verdict.outcome.value}.",
        at=str(artifact.path),
        got=verdict.detail,
        expected=f"a runtime for {artifact.format} that loads and runs it",
        fix="run it on a device that has the runtime (--device)"
        if unavailable
        else "export it again, or try another scheme",
    )
    if wrong:
        return DisagreementError(fault)
    return UnreachableError(fault) if unavailable else ConversionError(fault)
