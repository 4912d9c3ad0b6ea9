"""Benchmark artifacts on their devices, interleaved, and judge them by their budgets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from edgekd.artifacts.artifact import Artifact
from edgekd.artifacts.target import is_emulated, is_imported
from edgekd.benchmarking.benchmark import UNTIMED, any_undecided, benchmark, benchmark_all, time_all
from edgekd.benchmarking.eager_latency import pytorch_latency_ms
from edgekd.benchmarking.measure import Measured, MeasurementSettings, measure
from edgekd.data import Inputs
from edgekd.devices.on_device.agent import device_facts
from edgekd.devices.transport.lock import device_key
from edgekd.errors import EdgekdError, RefusedError, UnreachableError
from edgekd.evidence.budget import judge_budget
from edgekd.evidence.candidate import Candidate
from edgekd.evidence.measurement import Measurement
from edgekd.evidence.outcome import Outcome, Verdict
from edgekd.formats import find_format
from edgekd.network.network import Network
from edgekd.pipeline.candidates.instruction_counts import counts_on, with_instruction_counts
from edgekd.pipeline.candidates.state import DeploymentTarget, PipelineState
from edgekd.recipe.benchmark import PROTOCOLS, QUICK, THOROUGH
from edgekd.system.files import write_json
from edgekd.system.packages import tool_versions
from edgekd.system.process import run_concurrently
from edgekd.system.store import Run

__all__ = ["QUICK", "THOROUGH", "benchmark", "benchmark_all", "judge_budget", "step", "time_all"]


def step(state: PipelineState, run: Run) -> PipelineState:
    """The state with a measurement and a verdict for every candidate that agrees with its network.

    The targets of one device run one after the other; different devices run at the same time.
    """
    devices: dict[str, list[DeploymentTarget]] = {}
    for deployment in state.deployments:
        devices.setdefault(device_key(deployment.target.device or "local"), []).append(deployment)
    candidates = dict(enumerate(state.candidates))
    for judged in run_concurrently(
        [partial(_on_device, deployments, state, run) for deployments in devices.values()]
    ):
        candidates |= judged
    return _with_pytorch_latency(replace(state, candidates=tuple(candidates.values())))


def _with_pytorch_latency(state: PipelineState) -> PipelineState:
    """The state with the PyTorch latency of its networks: the teacher has no file to time."""
    roles = {"student": state.student, "unpruned": state.unpruned, "teacher": state.teacher}
    networks = {role: network for role, network in roles.items() if isinstance(network, Network)}
    scores = {
        f"{role}_score": replace(score, eager_ms=latency_ms)
        for role, latency_ms in pytorch_latency_ms(networks).items()
        if (score := getattr(state, f"{role}_score")) is not None
    }
    return replace(state, **scores)


def _on_device(
    deployments: Sequence[DeploymentTarget], state: PipelineState, run: Run
) -> dict[int, Candidate]:
    """The judged candidates of one device's targets, by their index."""
    candidates: dict[int, Candidate] = {}
    for deployment in deployments:
        number = state.deployments.index(deployment) + 1
        run.progress(
            "benchmark", f"{deployment.target.name}, target {number} of {len(state.deployments)}"
        )
        ours = {
            i: candidate
            for i, candidate in enumerate(state.candidates)
            if candidate.target == deployment.target.name
        }
        # Imported latencies were measured by hand, wherever the outputs were computed.
        imported = is_imported(deployment.target.device)
        timed = {
            i: candidate
            for i, candidate in ours.items()
            if candidate.open and (imported or candidate.evidence not in UNTIMED)
        }
        judged = _judged(timed, deployment, state, run)
        if is_emulated(deployment.target.device):
            judged |= _counted(
                {i: candidate for i, candidate in ours.items() if candidate.open},
                deployment,
                state,
                run,
            )
        ours = {
            i: judged.get(i) or _judged_by_size(candidate, deployment)
            for i, candidate in ours.items()
        }
        candidates |= with_instruction_counts(ours, deployment, state, run)
    return candidates


def _counted(
    candidates: Mapping[int, Candidate],
    deployment: DeploymentTarget,
    state: PipelineState,
    run: Run,
) -> dict[int, Candidate]:
    """Candidates of an emulated device with their instruction counts and verdicts."""
    artifacts = {
        candidate.name: candidate.artifact
        for candidate in candidates.values()
        if candidate.artifact is not None
    }
    try:
        counts = counts_on(deployment.target.device or "local", artifacts, deployment, state, run)
    except EdgekdError as error:
        fault = error.faults[0]
        return {
            i: _device_failed(candidate, error, f"{fault.what} {fault.got}")
            for i, candidate in candidates.items()
        }
    counted = {}
    for i, candidate in candidates.items():
        result = counts[candidate.name]
        if isinstance(result, Verdict):
            counted[i] = replace(candidate, outcome=result.outcome, detail=result.detail)
            continue
        verdict = judge_budget(
            artifacts[candidate.name].size_bytes, None, deployment.budget, result
        )
        detail = verdict.detail or candidate.detail
        counted[i] = replace(candidate, instructions=result, outcome=verdict.outcome, detail=detail)
    return counted


def _device_failed(candidate: Candidate, error: EdgekdError, detail: str) -> Candidate:
    """`candidate` with the outcome of a device that failed."""
    outcomes = {UnreachableError: Outcome.UNAVAILABLE, RefusedError: Outcome.REFUSED}
    outcome = outcomes.get(type(error), Outcome.RUN_FAILED)
    return replace(candidate, outcome=outcome, detail=detail)


def _judged_by_size(candidate: Candidate, deployment: DeploymentTarget) -> Candidate:
    """`candidate`, whose artifact cannot be timed, judged by its size alone.

    It can pass if the reference evaluator or an emulated device verified it, not if nothing ran it.
    """
    if candidate.artifact is None or not (
        candidate.open or candidate.outcome is Outcome.UNAVAILABLE
    ):
        return candidate
    verdict = judge_budget(candidate.artifact.size_bytes, None, deployment.budget)
    if not candidate.open and verdict.outcome is not Outcome.OVER_BUDGET:
        return candidate
    return replace(candidate, outcome=verdict.outcome, detail=verdict.detail or candidate.detail)


def _judged(
    candidates: Mapping[int, Candidate],
    deployment: DeploymentTarget,
    state: PipelineState,
    run: Run,
) -> dict[int, Candidate]:
    if not candidates:
        return {}
    artifacts = {
        candidate.name: candidate.artifact
        for candidate in candidates.values()
        if candidate.artifact is not None
    }
    parents, unpruned = _parents(list(candidates.values()))
    target, samples = deployment.target, state.samples("test")
    device = target.device or "local"

    def decided() -> Measured:
        inputs = samples.take(torch.arange(min(8, len(samples))))[0]
        return _decided(artifacts, parents, unpruned, deployment, inputs, state, run)

    def make(folder: Path) -> None:
        results = decided()
        failed = any(isinstance(result, Verdict) for result in results.values())
        # Not stored, so that the next run measures again: failures, undecided budgets, and results
        # of another machine, which may have changed since.
        if failed or device != "local" or any_undecided(artifacts, deployment.budget, results):
            raise _NotStored(results)
        for name, result in results.items():
            assert isinstance(result, Measurement)
            write_json(folder / f"{name}.json", result.to_json())

    key = {
        "artifacts": {name: artifact.sha256 for name, artifact in artifacts.items()},
        "target": [target.machine, target.evidence],
        "device": device,
        "threads": target.threads,
        "facts": device_facts(),
        "runtime": tool_versions(find_format(target.format).PACKAGES),
        "protocol": vars(PROTOCOLS[state.recipe.benchmark.protocol]),
        "data": state.data_key,
    }
    results: Mapping[str, Measurement | Verdict]
    try:
        folder = run.make("benchmark", target.name, key, make).folder
        results = {
            name: Measurement.from_json(json.loads((folder / f"{name}.json").read_text()))
            for name in artifacts
        }
        if any_undecided(artifacts, deployment.budget, results):  # Stored under another budget.
            results = decided()
    except _NotStored as error:
        results = error.results
        for name, result in results.items():  # Only for the report of this run.
            if isinstance(result, Measurement):
                folder = run.folder / "benchmark" / target.name
                write_json(folder / f"{name}.json", result.to_json())
    except EdgekdError as error:
        detail = f"{error.faults[0].what} {error.faults[0].got}"
        return {i: _device_failed(candidate, error, detail) for i, candidate in candidates.items()}
    judged = {}
    for i, candidate in candidates.items():
        result = results[candidate.name]
        if isinstance(result, Verdict):
            judged[i] = replace(candidate, outcome=result.outcome, detail=result.detail)
            continue
        verdict = judge_budget(artifacts[candidate.name].size_bytes, result, deployment.budget)
        judged[i] = replace(
            candidate,
            measurement=result,
            outcome=verdict.outcome,
            detail=verdict.detail or candidate.detail,
        )
    return judged


class _NotStored(Exception):
    """Carries measurements past the run store, which must not keep them."""

    def __init__(self, results: Mapping[str, Measurement | Verdict]) -> None:
        self.results = results


def _parents(candidates: Sequence[Candidate]) -> tuple[dict[str, str], dict[str, str]]:
    """By candidate, its float32 candidate, and its counterpart of the unpruned network."""
    names = [candidate.name for candidate in candidates]
    parents, unpruned = {}, {}
    for candidate in candidates:
        ours = [other.name for other in candidates if other.network == candidate.network]
        parent = candidate.in_float if candidate.in_float in names else ours[0]
        if parent != candidate.name:
            parents[candidate.name] = parent
        whole = candidate.first_of(network="unpruned")
        if whole != candidate.name and whole in names:
            unpruned[candidate.name] = whole
    return parents, unpruned


def _decided(
    artifacts: Mapping[str, Artifact],
    parents: Mapping[str, str],
    unpruned: Mapping[str, str],
    deployment: DeploymentTarget,
    inputs: Inputs,
    state: PipelineState,
    run: Run,
) -> Measured:
    """Measurements with as many looks as decide the budget, at most three."""

    def still_open(results: Measured) -> bool:
        return any_undecided(artifacts, deployment.budget, _with_evidence(results, deployment))

    def progress(stage: str, item: str, done: int = 0, total: int = 0) -> None:
        run.progress(stage, f"{deployment.target.name}: {item}", done, total)

    results = measure(
        artifacts,
        MeasurementSettings(
            device=deployment.target.device or "local",
            threads=deployment.target.threads,
            evidence=deployment.target.evidence,
            inputs=inputs,
            protocol=PROTOCOLS[state.recipe.benchmark.protocol],
            seed=run.seed,
        ),
        parents=parents,
        unpruned=unpruned,
        still_open=still_open,
        progress=progress,
    )
    return _with_evidence(results, deployment)


def _with_evidence(results: Measured, deployment: DeploymentTarget) -> Measured:
    """`results` with the evidence of the machine that the device reports."""
    return {
        name: result
        if isinstance(result, Verdict)
        else replace(result, evidence=deployment.target.evidence_on(result.device["machine"]))
        for name, result in results.items()
    }
