"""Time artifacts where they will run, side by side, and hold them against their budgets."""

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
from edgekd.benchmarking.measure import Measured, measure
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
from edgekd.system.process import side_by_side
from edgekd.system.store import Run

__all__ = ["QUICK", "THOROUGH", "benchmark", "benchmark_all", "judge_budget", "step", "time_all"]


def step(state: PipelineState, run: Run) -> PipelineState:
    """The work with a measurement and a verdict for every row that agrees with its network.

    Targets of one device follow one another; devices work at once.
    """
    devices: dict[str, list[DeploymentTarget]] = {}
    for deployment in state.deployments:
        devices.setdefault(device_key(deployment.target.device or "local"), []).append(deployment)
    candidates = dict(enumerate(state.candidates))
    for judged in side_by_side(
        [partial(_on_device, deployments, state, run) for deployments in devices.values()]
    ):
        candidates |= judged
    return _beside_teacher(replace(state, candidates=tuple(candidates.values())))


def _beside_teacher(state: PipelineState) -> PipelineState:
    """The work with its networks timed in PyTorch; the teacher is no file that a device takes."""
    found = {"student": state.student, "unpruned": state.unpruned, "teacher": state.teacher}
    networks = {name: each for name, each in found.items() if isinstance(each, Network)}
    scores = {
        f"{name}_score": replace(score, eager_ms=took)
        for name, took in pytorch_latency_ms(networks).items()
        if (score := getattr(state, f"{name}_score")) is not None
    }
    return replace(state, **scores)


def _on_device(
    deployments: Sequence[DeploymentTarget], state: PipelineState, run: Run
) -> dict[int, Candidate]:
    """The rows of one device's targets, by their place."""
    candidates: dict[int, Candidate] = {}
    for deployment in deployments:
        number = state.deployments.index(deployment) + 1
        run.progress(
            "benchmark", f"{deployment.target.name}, target {number} of {len(state.deployments)}"
        )
        places = {
            i: candidate
            for i, candidate in enumerate(state.candidates)
            if candidate.target == deployment.target.name
        }
        written = is_imported(
            deployment.target.device
        )  # Timed by hand, whatever computed the outputs.
        timed = {
            i: candidate
            for i, candidate in places.items()
            if candidate.open and (written or candidate.evidence not in UNTIMED)
        }
        judged = _judged(timed, deployment, state, run)
        if is_emulated(deployment.target.device):
            judged |= _counted(
                {i: candidate for i, candidate in places.items() if candidate.open},
                deployment,
                state,
                run,
            )
        ours = {
            i: judged.get(i) or _sized(candidate, deployment) for i, candidate in places.items()
        }
        candidates |= with_instruction_counts(ours, deployment, state, run)
    return candidates


def _counted(
    candidates: Mapping[int, Candidate],
    deployment: DeploymentTarget,
    state: PipelineState,
    run: Run,
) -> dict[int, Candidate]:
    """Rows of an emulated core with the instructions of an inference, and their verdicts."""
    artifacts = {
        candidate.name: candidate.artifact
        for candidate in candidates.values()
        if candidate.artifact is not None
    }
    try:
        found = counts_on(deployment.target.device or "local", artifacts, deployment, state, run)
    except EdgekdError as error:
        fault = error.faults[0]
        return {
            i: _stopped(candidate, error, f"{fault.what} {fault.got}")
            for i, candidate in candidates.items()
        }
    counted = {}
    for i, candidate in candidates.items():
        result = found[candidate.name]
        if isinstance(result, Verdict):
            counted[i] = replace(candidate, outcome=result.outcome, detail=result.detail)
            continue
        verdict = judge_budget(
            artifacts[candidate.name].size_bytes, None, deployment.budget, result
        )
        detail = verdict.detail or candidate.detail
        counted[i] = replace(candidate, instructions=result, outcome=verdict.outcome, detail=detail)
    return counted


def _stopped(candidate: Candidate, error: EdgekdError, detail: str) -> Candidate:
    """`candidate` where the device itself failed."""
    outcomes = {UnreachableError: Outcome.UNAVAILABLE, RefusedError: Outcome.REFUSED}
    outcome = outcomes.get(type(error), Outcome.RUN_FAILED)
    return replace(candidate, outcome=outcome, detail=detail)


def _sized(candidate: Candidate, deployment: DeploymentTarget) -> Candidate:
    """A row whose artifact cannot be timed: judged by its size, which alone is known.

    What the reference evaluator or an emulated device has verified may pass so; what nothing has
    run may not.
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
        found = decided()
        failed = any(isinstance(result, Verdict) for result in found.values())
        # What is not kept is measured again by the next run: failures, what is undecided, and what
        # another machine said, which may have changed since.
        if failed or device != "local" or any_undecided(artifacts, deployment.budget, found):
            raise _NotKept(found)
        for name, result in found.items():
            assert isinstance(result, Measurement)
            write_json(folder / f"{name}.json", result.to_json())

    key = {
        "artifacts": {name: artifact.sha256 for name, artifact in artifacts.items()},
        "target": [target.machine, target.evidence],
        "threads": target.threads,
        "facts": device_facts(),
        "runtime": tool_versions(find_format(target.format).PACKAGES),
        "protocol": vars(PROTOCOLS[state.recipe.benchmark.protocol]),
        "data": state.data_key,
    }
    found: Mapping[str, Measurement | Verdict]
    try:
        made = run.make("benchmark", target.name, key, make)
        found = {
            name: Measurement.from_json(json.loads((made.folder / f"{name}.json").read_text()))
            for name in artifacts
        }
        if any_undecided(artifacts, deployment.budget, found):  # It was kept under another budget.
            found = decided()
    except _NotKept as error:
        found = error.found
        for name, result in found.items():  # For the report of this run alone.
            if isinstance(result, Measurement):
                folder = run.folder / "benchmark" / target.name
                write_json(folder / f"{name}.json", result.to_json())
    except EdgekdError as error:
        detail = f"{error.faults[0].what} {error.faults[0].got}"
        return {i: _stopped(candidate, error, detail) for i, candidate in candidates.items()}
    judged = {}
    for i, candidate in candidates.items():
        result = found[candidate.name]
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


class _NotKept(Exception):
    """Carries measurements out of the making of a result that is not to be used again."""

    def __init__(self, found: Mapping[str, Measurement | Verdict]) -> None:
        self.found = found


def _parents(candidates: Sequence[Candidate]) -> tuple[dict[str, str], dict[str, str]]:
    """By candidate, the one in float32 of the same network, and the same of the unpruned one."""
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
    """Measurements of as many looks as decide the budget, three at most."""

    def still_open(found: Measured) -> bool:
        return any_undecided(artifacts, deployment.budget, _of_machine(found, deployment))

    def progress(stage: str, item: str, done: int = 0, total: int = 0) -> None:
        run.progress(stage, f"{deployment.target.name}: {item}", done, total)

    found = measure(
        artifacts,
        parents=parents,
        unpruned=unpruned,
        device=deployment.target.device or "local",
        threads=deployment.target.threads,
        evidence=deployment.target.evidence,
        inputs=inputs,
        protocol=PROTOCOLS[state.recipe.benchmark.protocol],
        seed=run.seed,
        still_open=still_open,
        progress=progress,
    )
    return _of_machine(found, deployment)


def _of_machine(found: Measured, deployment: DeploymentTarget) -> Measured:
    """`found` as evidence of the machine that the device said it is."""
    return {
        name: result
        if isinstance(result, Verdict)
        else replace(result, evidence=deployment.target.evidence_on(result.device["machine"]))
        for name, result in found.items()
    }
