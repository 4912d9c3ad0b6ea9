"""`edgekd.benchmark`: times artifacts on a device, interleaved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from edgekd.artifacts.artifact import Artifact
from edgekd.artifacts.target import Budget
from edgekd.benchmarking.measure import measure
from edgekd.data import Inputs
from edgekd.devices.job import failure_error
from edgekd.evidence.budget import judge_budget
from edgekd.evidence.measurement import Measurement
from edgekd.evidence.outcome import Outcome, Verdict
from edgekd.formats import find_format
from edgekd.recipe.benchmark import THOROUGH, Protocol
from edgekd.system.progress import Progress, no_progress

UNTIMED = ("reference", "emulated")
"""The evidence of rows that are not timed: there is no runtime, or its time is no latency."""


def benchmark(
    artifact: Artifact,
    *,
    device: str = "local",
    threads: int = 1,
    inputs: Inputs | None = None,
    protocol: Protocol = THOROUGH,
    seed: int = 0,
) -> Measurement:
    """How long `artifact` takes on `device`.

    Args:
        inputs: real samples by name; without them, random ones of the artifact's shapes.

    Raises:
        ConversionError: the runtime cannot load or run it.
        DisagreementError: an output is not finite, or it did not run on what was asked for.
        UnreachableError: the device cannot be reached, or has no runtime for it.
    """
    return benchmark_all(
        [artifact], device=device, threads=threads, inputs=inputs, protocol=protocol, seed=seed
    )[0]


def benchmark_all(artifacts: Sequence[Artifact], **options: Any) -> list[Measurement]:
    """The measurements of `artifacts`, those of one runtime interleaved; see `benchmark`.

    Each of a runtime after its first has the ratio of its median to the first's.

    Args:
        options: of `time_all`.
    """
    found = []
    for artifact, result in zip(artifacts, time_all(artifacts, **options), strict=True):
        if isinstance(result, Verdict):
            raise failure_error(result, artifact)
        found.append(result)
    return found


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
    """As `benchmark_all`; what failed is a verdict in its place.

    Args:
        budget: for which more samples are taken where they may decide it.
        tell: hears how far it is.
    """
    found: dict[int, Measurement | Verdict] = {}
    for runtime in dict.fromkeys(find_format(artifact.format).RUNTIME for artifact in artifacts):
        members = {
            f"artifact-{number}": artifact
            for number, artifact in enumerate(artifacts)
            if runtime == find_format(artifact.format).RUNTIME
        }
        measured = measure(
            members,
            parents=dict.fromkeys(list(members)[1:], next(iter(members))),
            device=device,
            threads=threads,
            evidence="device",
            inputs=inputs,
            protocol=protocol,
            seed=seed,
            still_open=partial(any_undecided, members, budget) if budget else None,
            progress=progress,
        )
        for name, result in measured.items():
            if isinstance(result, Measurement) and result.ratio:
                first = str(members[result.ratio.parent].path)
                result = replace(result, ratio=replace(result.ratio, parent=first))
            found[int(name.removeprefix("artifact-"))] = result
    return [found[number] for number in range(len(artifacts))]


def any_undecided(
    artifacts: Mapping[str, Artifact],
    budget: Budget,
    found: Mapping[str, Measurement | Verdict],
) -> bool:
    """Whether more samples could decide what is undecided: those of a throttled device cannot."""
    return any(
        isinstance(result, Measurement)
        and result.evidence == "device"
        and not result.doubts
        and bool(budget.percentiles)
        and judge_budget(artifacts[name].size_bytes, result, budget).outcome is Outcome.UNDECIDED
        for name, result in found.items()
    )
