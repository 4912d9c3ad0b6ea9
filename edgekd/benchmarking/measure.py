"""Measure the latency of artifacts on a device, interleaved.

First, one process per artifact measures its start, import, load, first inference and peak memory.
Then several fresh processes each load all artifacts of a target, warm them up until two blocks
agree, and time blocks of inferences, the artifacts interleaved in random order. All samples are
kept. If a budget is still undecided, more processes follow: at most three looks in total.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch

from edgekd.artifacts.artifact import Artifact
from edgekd.artifacts.target import Evidence
from edgekd.benchmarking.latency_ratio import latency_ratio
from edgekd.data import Inputs
from edgekd.devices.job import Job, Report, failure_in, run_job
from edgekd.devices.telemetry import condition
from edgekd.devices.transport.lock import exclusive
from edgekd.devices.vendor_tools.trtexec import module_rails
from edgekd.errors import ConversionError, EdgekdError, UnreachableError
from edgekd.evidence.measurement import Measurement
from edgekd.evidence.outcome import Outcome, Verdict
from edgekd.evidence.summarized_latencies import SummarizedLatencies
from edgekd.formats import find_format
from edgekd.recipe.benchmark import LOOKS, THOROUGH, Protocol
from edgekd.system.process import pause
from edgekd.system.progress import Progress, no_progress

CONFIDENCE = 1 - 0.05 / LOOKS
"""Confidence of the intervals of one look: all looks together have 95 % (Bonferroni)."""
RETRY_S = (2.0, 10.0)
"""Pauses before a lost device is tried again."""
COOL_S = 10.0
"""Pause between two checks whether a device has cooled."""

Measured = dict[str, Measurement | Verdict]
"""By artifact, its measurement, or the verdict of its failure."""


@dataclass(frozen=True)
class MeasurementSettings:
    """The device and the protocol of a measurement.

    Attributes:
        device: "local", or a device's URL.
        evidence: the kind of evidence that a measurement on `device` is.
        inputs: real samples by name; without them, random ones of the artifacts' shapes.
    """

    device: str = "local"
    threads: int = 1
    evidence: Evidence = "device"
    inputs: Inputs | None = None
    protocol: Protocol = THOROUGH
    seed: int = 0


@dataclass
class Steps:
    """The progress of a measurement: how many of its processes have begun."""

    progress: Progress
    total: int
    done: int = 0

    def __call__(self, item: str) -> None:
        """Report `item` in the current step."""
        self.progress("benchmark", item, self.done, self.total)

    def begin(self, item: str) -> None:
        """Begin the next step and report `item` in it."""
        self.done += 1
        self.total = max(self.total, self.done)
        self(item)


def measure(
    artifacts: Mapping[str, Artifact],
    settings: MeasurementSettings,
    *,
    parents: Mapping[str, str],
    unpruned: Mapping[str, str] | None = None,
    still_open: Callable[[Measured], bool] | None = None,
    progress: Progress = no_progress,
) -> Measured:
    """The measurement of each of `artifacts`, all of one runtime; a `Verdict` if it failed.

    Args:
        parents: by artifact, the one that its latency is divided by.
        unpruned: by artifact, the one of the network before pruning.
        still_open: whether more samples are needed; called after each look, of which there are at
            most three. Without it there is one look.

    Raises:
        UnreachableError: the device cannot be reached, or is in use.
        ConversionError: an artifact that ran alone crashed the process that times all of them.
    """
    protocol, device, seed = settings.protocol, settings.device, settings.seed
    job = _job(artifacts, settings)
    steps = Steps(progress, len(artifacts) + protocol.processes)
    with exclusive(device, steps):
        alone, failed = _each_alone(device, job, steps)
        runnable = {name: path for name, path in job.artifacts.items() if failed[name] is None}
        reports: list[Report] = []
        lost: EdgekdError | None = None
        _wait_to_cool(device, job, list(alone.values()), protocol, steps)
        measured: Measured = {}
        for look in range(LOOKS if still_open else 1):
            if runnable and lost is None:
                lost = _time_look(replace(job, artifacts=runnable), settings, reports, steps)
            doubts, notes = _doubts(reports, lost), _noise(alone)
            measured = {
                name: failed[name] or _measurement(name, alone[name], reports, settings, notes)
                for name in artifacts
            }
            for name, result in measured.items():
                if isinstance(result, Measurement):
                    ratio = latency_ratio(reports, name, parents.get(name), seed)
                    whole = latency_ratio(reports, name, (unpruned or {}).get(name), seed)
                    measured[name] = replace(
                        result, ratio=ratio, unpruned_ratio=whole, doubts=tuple(doubts)
                    )
            if still_open is None or lost or look == LOOKS - 1 or not still_open(measured):
                break
            steps.total += protocol.processes
            steps(f"undecided after look {look + 1} of {LOOKS}: more samples")
    return measured


def _job(artifacts: Mapping[str, Artifact], settings: MeasurementSettings) -> Job:
    first, protocol = next(iter(artifacts.values())), settings.protocol
    inputs = settings.inputs or _example_inputs(first)
    sizes = {
        name: (artifact.signature.inputs[0].shape[0] or 1) if artifact.signature else 1
        for name, artifact in artifacts.items()
    }
    options = {
        name: value
        for name, value in vars(protocol).items()
        if name not in ("name", "processes", "cool_s")
    }
    limit_s = protocol.warm_up_limit_s + protocol.limit_s
    return Job(
        action="time",
        runtime=find_format(first.format).RUNTIME,
        artifacts={name: artifact.path for name, artifact in artifacts.items()},
        batches=sizes,
        channels_last={name: artifact.channels_last for name, artifact in artifacts.items()},
        quantization={name: artifact.quantization for name, artifact in artifacts.items()},
        threads=settings.threads,
        inputs={name: tensor.numpy() for name, tensor in inputs.items()} if inputs else None,
        options={**options, "seed": settings.seed},
        # Twice the longest time it should take, and five minutes to send and load the files.
        timeout_s=300.0 + 2 * limit_s * len(artifacts),
    )


def _example_inputs(artifact: Artifact) -> Inputs | None:
    """Random inputs in the shapes of the example, for an artifact with dynamic dimensions."""
    shapes = artifact.lineage.get("example_shapes")
    if not shapes or artifact.signature is None:
        return None
    generator = torch.Generator().manual_seed(0)
    inputs = {}
    for spec in artifact.signature.inputs:
        dtype = getattr(torch, spec.dtype)
        # Integers may be indices, which must stay in range: they are zeros.
        inputs[spec.name] = (
            torch.randn(shapes[spec.name], generator=generator, dtype=dtype)
            if dtype.is_floating_point
            else torch.zeros(shapes[spec.name], dtype=dtype)
        )
    return inputs


def _each_alone(
    device: str, job: Job, steps: Steps
) -> tuple[dict[str, Report], dict[str, Verdict | None]]:
    """The report of a process per artifact, and the verdicts of those that failed."""
    reports: dict[str, Report] = {}
    failed: dict[str, Verdict | None] = {}
    for number, (name, path) in enumerate(job.artifacts.items()):
        steps.begin(f"load and first inference {number + 1}/{len(job.artifacts)}")
        single = replace(job, artifacts={name: path}, options={**job.options, "runs": 0})
        try:
            reports[name] = _run_with_retries(device, single, steps, known=bool(reports))
            failed[name] = failure_in(reports[name].results[name])
        except ConversionError as error:  # It crashed its own process only.
            failed[name] = Verdict(Outcome.RUN_FAILED, error.faults[0].got)
    return reports, failed


def _time_look(
    job: Job, settings: MeasurementSettings, reports: list[Report], steps: Steps
) -> EdgekdError | None:
    """Add the processes of a look to `reports`; the error if the device was lost after the first.

    Raises:
        UnreachableError: the device was lost before any report.
    """
    for _ in range(settings.protocol.processes):
        number = len(reports)
        generator = random.Random(settings.seed + number)
        steps.begin(f"process {number + 1}, {len(job.artifacts)} artifact(s) interleaved")
        # The order of loading affects memory layout, so each process loads in a random order.
        shuffled = dict(generator.sample(sorted(job.artifacts.items()), len(job.artifacts)))
        options = {**job.options, "seed": settings.seed + number}
        process = replace(job, artifacts=shuffled, options=options)
        try:
            reports.append(_run_with_retries(settings.device, process, steps, known=True))
        except UnreachableError as error:
            if not reports:
                raise
            return error
    return None


def _run_with_retries(
    device: str, job: Job, progress: Callable[[str], None], *, known: bool
) -> Report:
    """The report of `job`; a device that is `known` to have answered before is tried again."""
    for wait_s in RETRY_S if known else ():
        try:
            return run_job(device, job)
        except UnreachableError as error:
            progress(f"lost the device, retry in {wait_s:.0f} s: {error.faults[0].got}")
            pause(wait_s)
    return run_job(device, job)


def _wait_to_cool(
    device: str,
    job: Job,
    reports: Sequence[Report],
    protocol: Protocol,
    progress: Callable[[str], None],
) -> None:
    """Wait until the device is not throttled, for at most `cool_s`."""
    until = time.monotonic() + protocol.cool_s
    while reports and time.monotonic() < until:
        readings = reports[-1].readings
        reason = condition.too_hot(condition.read(readings[-1])) if readings else None
        if reason is None:
            break
        progress(f"waiting for the device to cool: {reason}")
        pause(COOL_S)
        reports = [_run_with_retries(device, replace(job, artifacts={}), progress, known=True)]


IDENTITY = ("model", "serial_sha256", "processor", "kernel")


def _doubts(reports: Sequence[Report], lost: EdgekdError | None) -> list[str]:
    """The reasons why the latencies may not be those of the device at its normal speed."""
    readings = [[condition.read(raw) for raw in report.readings] for report in reports]
    clock = condition.slower_clock(readings)
    doubts: dict[str, None] = {clock: None} if clock else {}
    for report, process in zip(reports, readings, strict=True):
        doubts |= dict.fromkeys(condition.throttled(process))
        for name in IDENTITY:
            before, after = reports[0].device.get(name), report.device.get(name)
            if before != after:
                doubts[f"another device answered: its {name} is {after}, not {before}"] = None
    if lost is not None:
        got = lost.faults[0].got
        doubts[f"the device was lost after {len(reports)} process(es): {got}"] = None
    return list(doubts)


def _noise(alone: Mapping[str, Report]) -> list[str]:
    """A note if other processes used the device before the measurement."""
    report = next(iter(alone.values()), None)
    if report is None or not report.readings:
        return []
    first = condition.read(report.readings[0])
    busy = condition.noisy(first, report.device.get("cpu_count"))
    return [f"noisy: {busy}"] if busy else []


def _measurement(
    name: str,
    alone: Report,
    reports: Sequence[Report],
    settings: MeasurementSettings,
    notes: Sequence[str],
) -> Measurement | Verdict:
    failures = (failure_in(report.results[name]) for report in reports)
    verdict = next((failure for failure in failures if failure), None)
    if verdict is not None:
        return verdict
    results = [report.results[name] for report in reports]
    summaries = tuple(
        SummarizedLatencies(
            count=result["told"]["count"],
            figures=tuple((share, ms) for share, ms in result["told"]["figures"]),
            mean_ms=result["told"].get("mean_ms"),
        )
        for result in results
        if "told" in result
    )
    if summaries:
        notes = [*notes, "measured by a tool that reports no samples: a missing percentile is its "
                 "next higher one, and the spread is unknown"]  # fmt: skip
    unsettled = [f"process {n + 1}" for n, result in enumerate(results) if not result["settled"]]
    if unsettled:
        notes = [*notes, f"the warm-up did not settle in {', '.join(unsettled)}"]
    phases = alone.results[name]
    readings = [condition.read(raw) for report in reports for raw in report.readings]
    return Measurement(
        samples_ns=tuple(
            tuple(sample for block in result["blocks_ns"] for sample in block)
            for result in results
            if not summaries
        ),
        summaries=summaries,
        warm_up_count=sum(result["warm_up_count"] for result in results),
        start_ms=None if alone.start_ns is None else alone.start_ns / 1e6,
        import_ms=None if phases["import_ns"] is None else phases["import_ns"] / 1e6,
        init_ms=phases["init_ns"] / 1e6,
        first_ms=phases["first_ns"] / 1e6,
        peak_memory_bytes=alone.peak_memory_bytes,
        threads=settings.threads,
        evidence=settings.evidence,
        device={
            **reports[-1].device,
            **condition.summary(readings),
            **(_energy(readings, results) if len(reports[0].results) == 1 else {}),
            "runtime": results[-1]["facts"],
        },
        confidence=CONFIDENCE,
        protocol=settings.protocol.name,
        notes=tuple(notes),
    )


def _energy(
    readings: Sequence[condition.Reading], results: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Energy per inference in mJ, of the whole module and with its idle power, if it is reported.

    It is for a single artifact: several that alternate within a second share the readings.
    """
    powers = [reading.power_mw for reading in readings if reading.power_mw]
    times = [ns for result in results for block in result.get("blocks_ns", ()) for ns in block]
    if not powers or not times:
        return {}
    rails = module_rails(powers[0])
    power_mw = fmean([sum(power.get(rail, 0) for rail in rails) for power in powers])
    return {
        "module_power_mw": power_mw,
        "power_rails": " + ".join(rails),
        "energy_mj": power_mw * fmean(times) / 1e9,
    }
