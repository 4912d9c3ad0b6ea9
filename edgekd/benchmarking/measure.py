"""Time artifacts on a device, interleaved.

First a process for each artifact alone: its start, import, load, first inference and peak memory.
Then several fresh processes; in each, all artifacts of a target are loaded and warmed up until two
blocks agree, and blocks of inferences are timed, the artifacts interleaved in random order. Every
sample is kept. Where a budget is still open, the same again, three times at most.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgekd.artifacts.artifact import Artifact
from edgekd.artifacts.target import Evidence
from edgekd.data import Inputs
from edgekd.devices.job import Job, Report, failure_in, run_job
from edgekd.devices.telemetry import condition
from edgekd.devices.transport.lock import exclusive
from edgekd.devices.vendor_tools.trtexec import module_rails
from edgekd.errors import ConversionError, EdgekdError, UnreachableError
from edgekd.evidence.measurement import Measurement, Ratio
from edgekd.evidence.outcome import Outcome, Verdict
from edgekd.evidence.summarized_latencies import SummarizedLatencies
from edgekd.formats import find_format
from edgekd.recipe.benchmark import LOOKS, Protocol
from edgekd.system.process import pause
from edgekd.system.progress import Progress, no_progress

CONFIDENCE = 1 - 0.05 / LOOKS
"""Of one look's intervals, so that all looks together keep 95 % (Bonferroni)."""
BOOTSTRAPS = 400
AGAIN_S = (2.0, 10.0)
"""Pauses before a device that was there is tried again."""
COOL_S = 10.0
"""Between two looks whether a device has cooled."""

Measured = dict[str, Measurement | Verdict]


@dataclass
class Steps:
    """How far a measurement is: what it does now, and how many of its processes have begun."""

    progress: Progress
    total: int
    done: int = 0

    def __call__(self, told: str) -> None:
        """Tells what is done in the step that has begun."""
        self.progress("benchmark", told, self.done, self.total)

    def begin(self, told: str) -> None:
        """Tells of the next step."""
        self.done += 1
        self.total = max(self.total, self.done)
        self(told)


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
    still_open: Callable[[Measured], bool] | None = None,
    progress: Progress = no_progress,
) -> Measured:
    """What each of `artifacts`, all of one runtime, takes; a `Verdict` for one that failed.

    Args:
        parents: by name of an artifact, that whose time its own is divided by.
        unpruned: by name of an artifact, that of the network before it was pruned.
        still_open: whether more samples are wanted; asked after each look, three at most. Without
            it there is one look.
        tell: hears what is done, and the how many-th process of how many it is.

    Raises:
        UnreachableError: the device cannot be reached, or is in use.
        ConversionError: an artifact that had run took the process down with which all are timed.
    """
    job = _job(artifacts, threads, inputs, protocol, seed)
    steps = Steps(progress, len(artifacts) + protocol.processes)
    with exclusive(device, steps):
        alone, failed = _each_alone(device, job, steps)
        well = {name: path for name, path in job.artifacts.items() if failed[name] is None}
        rounds: list[Report] = []
        lost: EdgekdError | None = None
        _wait_to_cool(device, job, list(alone.values()), protocol, steps)
        measured: Measured = {}
        for look in range(LOOKS if still_open else 1):
            if well and lost is None:
                lost = _timed(device, replace(job, artifacts=well), protocol, seed, rounds, steps)
            doubts, notes = _doubts(rounds, lost), _noise(alone)
            measured = {
                name: failed[name]
                or _measurement(name, alone[name], rounds, protocol, evidence, threads, notes)
                for name in artifacts
            }
            for name, result in measured.items():
                if isinstance(result, Measurement):
                    ratio = _ratio(rounds, name, parents.get(name), seed)
                    whole = _ratio(rounds, name, (unpruned or {}).get(name), seed)
                    measured[name] = replace(
                        result, ratio=ratio, unpruned_ratio=whole, doubts=tuple(doubts)
                    )
            if still_open is None or lost or look == LOOKS - 1 or not still_open(measured):
                break
            steps.total += protocol.processes
            steps(f"undecided after look {look + 1} of {LOOKS}: more samples")
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
    options = {
        name: value
        for name, value in vars(protocol).items()
        if name not in ("name", "processes", "cool_s")
    }
    most_s = protocol.warm_up_limit_s + protocol.limit_s
    return Job(
        action="time",
        runtime=find_format(first.format).RUNTIME,
        artifacts={name: artifact.path for name, artifact in artifacts.items()},
        batches=sizes,
        channels_last={name: artifact.channels_last for name, artifact in artifacts.items()},
        quantization={name: artifact.quantization for name, artifact in artifacts.items()},
        threads=threads,
        inputs={name: tensor.numpy() for name, tensor in inputs.items()} if inputs else None,
        options={**options, "seed": seed},
        # Twice what it should take at most, and five minutes to send and load it all.
        timeout_s=300.0 + 2 * most_s * len(artifacts),
    )


def _of_example_sizes(artifact: Artifact) -> Inputs | None:
    """Inputs of the sizes that an artifact with free sizes was exported with; None for others."""
    shapes = artifact.lineage.get("example_shapes")
    if not shapes or artifact.signature is None:
        return None
    generator = torch.Generator().manual_seed(0)
    made = {}
    for spec in artifact.signature.inputs:
        dtype = getattr(torch, spec.dtype)
        # Zeros where the values may be indices, which must not be out of range.
        made[spec.name] = (
            torch.randn(shapes[spec.name], generator=generator, dtype=dtype)
            if dtype.is_floating_point
            else torch.zeros(shapes[spec.name], dtype=dtype)
        )
    return made


def _each_alone(
    device: str, job: Job, steps: Steps
) -> tuple[dict[str, Report], dict[str, Verdict | None]]:
    """The reports of a process for each artifact, and how those failed that did."""
    reports: dict[str, Report] = {}
    failed: dict[str, Verdict | None] = {}
    for number, (name, path) in enumerate(job.artifacts.items()):
        steps.begin(f"load and first inference {number + 1}/{len(job.artifacts)}")
        ours = replace(job, artifacts={name: path}, options={**job.options, "runs": 0})
        try:
            reports[name] = _patiently(device, ours, steps, known=bool(reports))
            failed[name] = failure_in(reports[name].results[name])
        except ConversionError as error:  # It took its process down, and only its own.
            failed[name] = Verdict(Outcome.RUN_FAILED, error.faults[0].got)
    return reports, failed


def _timed(
    device: str,
    job: Job,
    protocol: Protocol,
    seed: int,
    rounds: list[Report],
    steps: Steps,
) -> EdgekdError | None:
    """Adds a look's processes to `rounds`; how the device was lost, where it was after one."""
    for _ in range(protocol.processes):
        number = len(rounds)
        generator = random.Random(seed + number)
        steps.begin(f"process {number + 1}, {len(job.artifacts)} artifact(s) interleaved")
        # What is loaded first lies elsewhere in memory: each process loads in another order.
        shuffled = dict(generator.sample(sorted(job.artifacts.items()), len(job.artifacts)))
        ours = replace(job, artifacts=shuffled, options={**job.options, "seed": seed + number})
        try:
            rounds.append(_patiently(device, ours, steps, known=True))
        except UnreachableError as error:
            if not rounds:
                raise
            return error
    return None


def _patiently(device: str, job: Job, progress: Callable[[str], None], *, known: bool) -> Report:
    """The report of `job`; a device that is `known` to have been there is tried again."""
    for wait_s in AGAIN_S if known else ():
        try:
            return run_job(device, job)
        except UnreachableError as error:
            progress(f"lost the device, again in {wait_s:.0f} s: {error.faults[0].got}")
            pause(wait_s)
    return run_job(device, job)


def _wait_to_cool(
    device: str,
    job: Job,
    reports: Sequence[Report],
    protocol: Protocol,
    progress: Callable[[str], None],
) -> None:
    """Waits until the device is not throttled, or for `cool_s`."""
    until = time.monotonic() + protocol.cool_s
    while reports and time.monotonic() < until:
        readings = reports[-1].readings
        why = condition.too_hot(condition.read(readings[-1])) if readings else None
        if why is None:
            break
        progress(f"waits for the device to cool: {why}")
        pause(COOL_S)
        reports = [_patiently(device, replace(job, artifacts={}), progress, known=True)]


IDENTITY = ("model", "serial_sha256", "processor", "kernel")


def _doubts(rounds: Sequence[Report], lost: EdgekdError | None) -> list[str]:
    """Why figures are not of the device at its speed."""
    readings = [[condition.read(raw) for raw in report.readings] for report in rounds]
    clock = condition.slower_clock(readings)
    doubts: dict[str, None] = {clock: None} if clock else {}
    for report, read in zip(rounds, readings, strict=True):
        doubts |= dict.fromkeys(condition.throttled(read))
        for name in IDENTITY:
            before, after = rounds[0].device.get(name), report.device.get(name)
            if before != after:
                doubts[f"another device answered: its {name} is {after}, and was {before}"] = None
    if lost is not None:
        got = lost.faults[0].got
        doubts[f"the device was lost after {len(rounds)} process(es): {got}"] = None
    return list(doubts)


def _noise(alone: Mapping[str, Report]) -> list[str]:
    """What else computed on the device before anything was timed there."""
    report = next(iter(alone.values()), None)
    if report is None or not report.readings:
        return []
    first = condition.read(report.readings[0])
    busy = condition.noisy(first, report.device.get("cpu_count"))
    return [f"noisy: {busy}"] if busy else []


def _measurement(
    name: str,
    alone: Report,
    rounds: Sequence[Report],
    protocol: Protocol,
    evidence: Evidence,
    threads: int,
    notes: Sequence[str],
) -> Measurement | Verdict:
    failures = (failure_in(report.results[name]) for report in rounds)
    verdict = next((wrong for wrong in failures if wrong), None)
    if verdict is not None:
        return verdict
    results = [report.results[name] for report in rounds]
    told = tuple(
        SummarizedLatencies(
            count=result["told"]["count"],
            figures=tuple((share, ms) for share, ms in result["told"]["figures"]),
            mean_ms=result["told"].get("mean_ms"),
        )
        for result in results
        if "told" in result
    )
    if told:
        notes = [*notes, "by a tool that keeps no samples: a percentile it does not tell is its "
                 "next one, and how steady it was is not known"]  # fmt: skip
    unsettled = [f"process {n + 1}" for n, each in enumerate(results) if not each["settled"]]
    if unsettled:
        notes = [*notes, f"the warm-up did not settle in {', '.join(unsettled)}"]
    phases = alone.results[name]
    readings = [condition.read(raw) for report in rounds for raw in report.readings]
    return Measurement(
        samples_ns=tuple(
            tuple(sample for block in result["blocks_ns"] for sample in block)
            for result in results
            if not told
        ),
        summaries=told,
        warm_up_count=sum(result["warm_up_count"] for result in results),
        start_ms=None if alone.start_ns is None else alone.start_ns / 1e6,
        import_ms=None if phases["import_ns"] is None else phases["import_ns"] / 1e6,
        init_ms=phases["init_ns"] / 1e6,
        first_ms=phases["first_ns"] / 1e6,
        peak_memory_bytes=alone.peak_memory_bytes,
        threads=threads,
        evidence=evidence,
        device={
            **rounds[-1].device,
            **condition.summary(readings),
            **(_energy(readings, results) if len(rounds[0].results) == 1 else {}),
            "runtime": results[-1]["facts"],
        },
        confidence=CONFIDENCE,
        protocol=protocol.name,
        notes=tuple(notes),
    )


def _energy(
    readings: Sequence[condition.Reading], results: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Where a board tells its power: mJ of one inference, of the whole module, idle draw included.

    Of several artifacts that take turns within a second it cannot be told whose power it was.
    """
    told = [each.power_mw for each in readings if each.power_mw]
    times = [ns for result in results for block in result.get("blocks_ns", ()) for ns in block]
    if not told or not times:
        return {}
    rails = module_rails(told[0])
    power_mw = fmean([sum(each.get(rail, 0) for rail in rails) for each in told])
    return {
        "module_power_mw": power_mw,
        "power_rails": " + ".join(rails),
        "energy_mj": power_mw * fmean(times) / 1e9,
    }


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
        np.array([_medians(report.results[each]) for each in (name, parent)]).T for report in rounds
    ]
    generator = np.random.default_rng(seed)
    drawn = sorted(
        _of_medians(
            [
                processes[number][
                    generator.integers(0, len(processes[number]), len(processes[number]))
                ]
                for number in generator.integers(0, len(processes), len(processes))
            ]
        )
        for _ in range(BOOTSTRAPS)
    )
    tail = round(0.025 * BOOTSTRAPS)
    return Ratio(parent, _of_medians(processes), low=drawn[tail - 1], high=drawn[-tail])


def _medians(result: Mapping[str, Any]) -> list[float]:
    """The median of each block."""
    return [float(np.median(block)) for block in result["blocks_ns"]]


def _of_medians(processes: Sequence[NDArray[np.float64]]) -> float:
    pairs = np.concatenate(processes)
    ours, theirs = np.median(pairs, axis=0)
    return float(ours / theirs)
