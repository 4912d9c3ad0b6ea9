"""Instruction counts of a run's files on emulated Arm cores, stored for later runs.

Without a device they show what int8 gains on a core with int8 dot products and on one without. They
are not latencies and do not decide what ships, except for a target whose device is emulated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from edgekd.artifacts.artifact import Artifact
from edgekd.benchmarking.instruction_counts import DOT_PRODUCTS, count_instructions, counted_by
from edgekd.errors import EdgekdError
from edgekd.evidence.candidate import Candidate
from edgekd.evidence.measurement import LEAST_GAIN
from edgekd.evidence.outcome import Outcome, Verdict
from edgekd.formats import find_format
from edgekd.pipeline.candidates.state import DeploymentTarget, PipelineState
from edgekd.system.files import write_json
from edgekd.system.packages import tool_versions
from edgekd.system.store import Run

COUNTED = (Outcome.PASSED, Outcome.OVER_BUDGET, Outcome.UNDECIDED, Outcome.UNAVAILABLE)
"""The outcomes of candidates whose files are counted: correct, or not known to be wrong."""


def counts_on(
    device: str,
    artifacts: Mapping[str, Artifact],
    deployment: DeploymentTarget,
    state: PipelineState,
    run: Run,
) -> Mapping[str, Verdict | int]:
    """By candidate, the instructions of one inference on the emulated `device`, or the failure.

    Raises:
        UnreachableError: the device is not set up, or cannot count instructions.
    """
    if not artifacts:
        return {}
    samples = state.samples("test")
    inputs = samples.take(torch.arange(min(8, len(samples))))[0]

    def make(folder: Path) -> None:
        counts = count_instructions(artifacts, device, inputs)
        if any(isinstance(count, Verdict) for count in counts.values()):
            raise _NotStored(counts)
        write_json(folder / "instructions.json", counts)

    key = {
        "artifacts": {name: artifact.sha256 for name, artifact in artifacts.items()},
        "device": device,
        "counter": counted_by(),
        "runtime": tool_versions(find_format(deployment.target.format).PACKAGES),
        "data": state.data_key,
    }
    try:
        name = f"{deployment.target.name}-{device.partition('://')[2]}"
        folder = run.make("benchmark", name, key, make).folder
        counts: Mapping[str, int] = json.loads((folder / "instructions.json").read_text())
    except _NotStored as error:
        return error.counts
    return counts


class _NotStored(Exception):
    """Carries counts with failures past the run store, which must not keep them."""

    def __init__(self, counts: Mapping[str, Verdict | int]) -> None:
        self.counts = counts


def with_instruction_counts(
    candidates: Mapping[int, Candidate],
    deployment: DeploymentTarget,
    state: PipelineState,
    run: Run,
) -> dict[int, Candidate]:
    """`candidates` of one target with their instructions by core, and a note that compares them.

    They are returned unchanged if the target is not an Arm CPU, if its device was timed, or if no
    emulator is set up, which the run then reports.
    """
    target = deployment.target
    timed = any(
        candidate.measurement and candidate.measurement.evidence == "device"
        for candidate in candidates.values()
    )
    artifacts = {
        candidate.name: candidate.artifact
        for candidate in candidates.values()
        if candidate.artifact is not None and candidate.outcome in COUNTED
    }
    if target.emulated is None or target.accelerator != "cpu" or timed or not artifacts:
        return dict(candidates)
    if counted_by() is None:
        run.progress(
            "benchmark",
            f"{target.name}: no device timed it; run edgekd devices setup emulated to count "
            "its instructions",
        )
        return dict(candidates)
    by_core: dict[str, Mapping[str, Verdict | int]] = {}
    for core in DOT_PRODUCTS:
        run.progress("benchmark", f"{target.name}: instructions on an emulated {core}")
        try:
            by_core[core] = counts_on(f"emulated://{core}", artifacts, deployment, state, run)
        except EdgekdError as error:
            fault = error.faults[0]
            run.progress("benchmark", f"{target.name}: not counted: {fault.what} {fault.got}")
            return dict(candidates)
    counted = {}
    for i, candidate in candidates.items():
        own = {
            core: count
            for core, counts in by_core.items()
            if isinstance(count := counts.get(candidate.name), int)
        }
        counted[i] = replace(candidate, core_instructions=own)
    by_name = {candidate.name: candidate for candidate in counted.values()}
    return {
        i: replace(candidate, notes=(*candidate.notes, note))
        if (note := comparison(candidate, by_name))
        else candidate
        for i, candidate in counted.items()
    }


def comparison(candidate: Candidate, others: Mapping[str, Candidate]) -> str | None:
    """A sentence that compares the instructions of `candidate` with those of its float32 candidate.

    None if one of the two was not counted.
    """
    first = others.get(candidate.in_float)
    if first is None or first.name == candidate.name:
        return None
    ratios = {
        core: candidate.core_instructions[core] / count
        for core, count in first.core_instructions.items()
        if core in candidate.core_instructions
    }
    if not ratios:
        return None
    (core, value), *more = ratios.items()
    sentence = (
        f"{candidate.name} takes {value:.2f} of {first.name}'s instructions on a core "
        f"{DOT_PRODUCTS[core]}"
    )
    sentence += "".join(f", {ratio:.2f} on a core {DOT_PRODUCTS[name]}" for name, ratio in more)
    if all(value > 1 + LEAST_GAIN for value in ratios.values()):
        sentence = f"{sentence}: more on both"
    return f"{sentence}; counted on emulated cores, not a latency"
