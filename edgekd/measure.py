"""Time artifacts on a device, interleaved.

The protocol: several fresh processes; in each, all artifacts of a target are loaded, run once, and
warmed up until two blocks agree; then blocks of inferences are timed, the artifacts interleaved in
random order. Every sample is kept. Load time, first inference and peak memory come from processes
that hold one artifact alone.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from edgekd.artifact import Artifact
from edgekd.data import Inputs
from edgekd.devices import Job, Report, failure_in, run_job
from edgekd.errors import ConversionError
from edgekd.evidence import Measurement, Outcome, Ratio, Verdict
from edgekd.formats import find_format
from edgekd.target import Evidence

LOOKS = 3
CONFIDENCE = 1 - 0.05 / LOOKS
"""Of one look's intervals, so that all looks together keep 95 % (Bonferroni)."""
BOOTSTRAPS = 400


@dataclass(frozen=True)
class Protocol:
    """How much is measured.

    Attributes:
        processes: fresh ones, since a process's memory layout moves its times.
        runs: steady inferences of each artifact in a process, at least.
        seconds: steady time of each artifact in a process, at least.
        block: inferences before another artifact's turn.
        limit_s: most steady time of each artifact in a process, also with fewer runs.
        warm_up_s: least time of warming up; `warm_up_limit_s` is the most.
    """

    processes: int = 3
    runs: int = 200
    seconds: float = 0.3
    block: int = 20
    warm_up_s: float = 0.2
    warm_up_limit_s: float = 5.0
    limit_s: float = 60.0


def measure(
    artifacts: Mapping[str, Artifact],
    *,
    parents: Mapping[str, str],
    device: str,
    threads: int,
    evidence: Evidence,
    inputs: Inputs | None,
    protocol: Protocol,
    seed: int,
    unpruned: Mapping[str, str] | None = None,
) -> dict[str, Measurement | Verdict]:
    """What each of `artifacts`, all of one runtime, takes; a `Verdict` for one that failed.

    Args:
        parents: by name of an artifact, that whose time its own is divided by.
        unpruned: by name of an artifact, that of the network before it was pruned.
    """
    job = _job(artifacts, threads, inputs, protocol, seed)
    brief = {**job.options, "runs": 1, "seconds": 0.0}
    alone: dict[str, Report] = {}
    failed: dict[str, Verdict | None] = {}
    for name, path in job.artifacts.items():
        try:
            alone[name] = run_job(device, replace(job, artifacts={name: path}, options=brief))
            failed[name] = failure_in(alone[name].results[name])
        except ConversionError as error:  # It took its process down, and only its own.
            failed[name] = Verdict(Outcome.RUN_FAILED, error.faults[0].got)
    well = {name: path for name, path in job.artifacts.items() if failed[name] is None}
    rounds: list[Report] = []
    dice = random.Random(seed)
    for number in range(protocol.processes if well else 0):
        # What is loaded first lies elsewhere in memory: each process loads in another order.
        shuffled = dict(dice.sample(sorted(well.items()), len(well)))
        options = {**job.options, "seed": seed + number}
        rounds.append(run_job(device, replace(job, artifacts=shuffled, options=options)))
    measured: dict[str, Measurement | Verdict] = {}
    for name in artifacts:
        verdict = failed[name] or next(
            (wrong for report in rounds if (wrong := failure_in(report.results[name]))), None
        )
        if verdict is not None:
            measured[name] = verdict
            continue
        results = [report.results[name] for report in rounds]
        measured[name] = Measurement(
            samples_ns=tuple(
                tuple(sample for block in result["blocks_ns"] for sample in block)
                for result in results
            ),
            warm_up_count=sum(result["warm_up_count"] for result in results),
            init_ms=alone[name].results[name]["init_ns"] / 1e6,
            first_ms=alone[name].results[name]["first_ns"] / 1e6,
            peak_memory_bytes=alone[name].peak_memory_bytes,
            threads=threads,
            evidence=evidence,
            device={
                **rounds[-1].device,
                "before": rounds[0].device["before"],
                "runtime": results[-1]["facts"],
            },
            ratio=_ratio(rounds, name, parents.get(name), seed),
            unpruned_ratio=_ratio(rounds, name, (unpruned or {}).get(name), seed),
            confidence=CONFIDENCE,
        )
    return measured


def _job(
    artifacts: Mapping[str, Artifact],
    threads: int,
    inputs: Inputs | None,
    protocol: Protocol,
    seed: int,
) -> Job:
    first = next(iter(artifacts.values()))
    inputs = inputs or _of_example_sizes(first)
    sizes = {
        name: (artifact.signature.inputs[0].shape[0] or 1) if artifact.signature else 1
        for name, artifact in artifacts.items()
    }
    return Job(
        action="time",
        runtime=find_format(first.format).RUNTIME,
        artifacts={name: artifact.path for name, artifact in artifacts.items()},
        batches=sizes,
        channels_last={name: artifact.channels_last for name, artifact in artifacts.items()},
        threads=threads,
        inputs={name: tensor.numpy() for name, tensor in inputs.items()} if inputs else None,
        options={
            "runs": protocol.runs,
            "seconds": protocol.seconds,
            "block": protocol.block,
            "warm_up_s": protocol.warm_up_s,
            "warm_up_limit_s": protocol.warm_up_limit_s,
            "limit_s": protocol.limit_s,
            "seed": seed,
        },
    )


def _of_example_sizes(artifact: Artifact) -> Inputs | None:
    """Inputs of the sizes that an artifact with free sizes was exported with; None for others."""
    shapes = artifact.lineage.get("example_shapes")
    if not shapes or artifact.signature is None:
        return None
    dice = torch.Generator().manual_seed(0)
    made = {}
    for spec in artifact.signature.inputs:
        dtype = getattr(torch, spec.dtype)
        # Zeros where the values may be indices, which must not be out of range.
        made[spec.name] = (
            torch.randn(shapes[spec.name], generator=dice, dtype=dtype)
            if dtype.is_floating_point
            else torch.zeros(shapes[spec.name], dtype=dtype)
        )
    return made


def _ratio(rounds: Sequence[Report], name: str, parent: str | None, seed: int) -> Ratio | None:
    """The ratio of medians to those of `parent`, or None where that was not timed beside it.

    Its interval is a bootstrap over processes and blocks, of interleaved pairs.
    Processes are drawn before blocks, since a process's luck is common to all its blocks.
    Source: Efron, Tibshirani 1993, An Introduction to the Bootstrap, section 13.3 (percentile);
    Davison, Hinkley 1997, Bootstrap Methods and their Application, section 3.8 (nested).
    """
    if parent is None or any("blocks_ns" not in each.results.get(parent, {}) for each in rounds):
        return None
    processes = [
        [
            (statistics.median(ours), statistics.median(theirs))
            for ours, theirs in zip(
                report.results[name]["blocks_ns"], report.results[parent]["blocks_ns"], strict=True
            )
        ]
        for report in rounds
    ]
    dice = random.Random(seed)
    drawn = sorted(
        _of_medians(
            [
                dice.choices(pairs, k=len(pairs))
                for pairs in dice.choices(processes, k=len(processes))
            ]
        )
        for _ in range(BOOTSTRAPS)
    )
    tail = round(0.025 * BOOTSTRAPS)
    return Ratio(parent, _of_medians(processes), low=drawn[tail - 1], high=drawn[-tail])


def _of_medians(processes: Sequence[Sequence[tuple[float, float]]]) -> float:
    pairs = [pair for pairs in processes for pair in pairs]
    return statistics.median(a for a, _ in pairs) / statistics.median(b for _, b in pairs)
