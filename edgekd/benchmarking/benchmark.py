"""`edgekd.benchmark`: measure the latency of artifacts on a device, interleaved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from edgekd.artifacts.artifact import Artifact
from edgekd.artifacts.target import Budget
from edgekd.benchmarking.measure import MeasurementSettings, measure
from edgekd.data import Inputs
from edgekd.devices.job import failure_error
from edgekd.evidence.budget import judge_budget
from edgekd.evidence.measurement import Measurement
from edgekd.evidence.outcome import Outcome, Verdict
from edgekd.formats import find_format
from edgekd.recipe.benchmark import THOROUGH, Protocol
from edgekd.system.progress import Progress, no_progress

UNTIMED = ("reference", "emulated")
"""Kinds of evidence without a latency: there is no runtime, or it is an emulator."""


def benchmark(
    artifact: Artifact,
    *,
    device: str = "local",
    threads: int = 1,
    inputs: Inputs | None = None,
    protocol: Protocol = THOROUGH,
    seed: int = 0,
) -> Measurement:
    """Measure the latency of `artifact` on `device`.

    Args:
        device: "local", or a device's URL, such as ssh://pi@pi5.local.
        inputs: real samples by name; without them, random ones of the artifact's shapes.
        protocol: how many processes and samples; see `edgekd.recipe.benchmark`.

    Raises:
        ConversionError: the runtime cannot load or run the artifact.
        DisagreementError: an output is not finite, or the artifact fell back from the requested
            delegate, execution provider or precision.
        UnreachableError: the device cannot be reached, or has no runtime for the artifact.
    """
    return benchmark_all(
        [artifact], device=device, threads=threads, inputs=inputs, protocol=protocol, seed=seed
    )[0]


def benchmark_all(artifacts: Sequence[Artifact], **options: Any) -> list[Measurement]:
    """Measure `artifacts`, those of one runtime interleaved; see `benchmark`.

    Each artifact after the first of its runtime has the ratio of its median to the first's.

    Args:
        options: of `time_all`.
    """
    measurements = []
    for artifact, result in zip(artifacts, time_all(artifacts, **options), strict=True):
        if isinstance(result, Verdict):
            raise failure_error(result, artifact)
        measurements.append(result)
    return measurements


def time_all(
    artifacts: Sequence[Artifact],
    *,
    device: str = "local",
    threads: int = 1,
    inputs: Inputs | None = None,
    protocol: Protocol = THOROUGH,
    seed: int = 0,
    budget: Budget | None = None,
    progress: Progress = no_progress,
) -> list[Measurement | Verdict]:
    """Measure `artifacts` as `benchmark_all` does, with a verdict in place of each that failed.

    Args:
        budget: more samples are taken as long as they may decide it.
    """
    results: dict[int, Measurement | Verdict] = {}
    settings = MeasurementSettings(device, threads, "device", inputs, protocol, seed)
    for runtime in dict.fromkeys(find_format(artifact.format).RUNTIME for artifact in artifacts):
        members = {
            f"artifact-{number}": artifact
            for number, artifact in enumerate(artifacts)
            if runtime == find_format(artifact.format).RUNTIME
        }
        measured = measure(
            members,
            settings,
            parents=dict.fromkeys(list(members)[1:], next(iter(members))),
            still_open=partial(any_undecided, members, budget) if budget else None,
            progress=progress,
        )
        for name, result in measured.items():
            if isinstance(result, Measurement) and result.ratio:
                first = str(members[result.ratio.parent].path)
                result = replace(result, ratio=replace(result.ratio, parent=first))
            results[int(name.removeprefix("artifact-"))] = result
    return [results[number] for number in range(len(artifacts))]


def any_undecided(
    artifacts: Mapping[str, Artifact],
    budget: Budget,
    results: Mapping[str, Measurement | Verdict],
) -> bool:
    """Whether more samples could decide an open budget; samples of a throttled device cannot."""
    return any(
        isinstance(result, Measurement)
        and result.evidence == "device"
        and not result.doubts
        and bool(budget.percentiles)
        and judge_budget(artifacts[name].size_bytes, result, budget).outcome is Outcome.UNDECIDED
        for name, result in results.items()
    )
