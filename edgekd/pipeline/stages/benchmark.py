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
from edgekd.benchmarking.benchmark import UNTIMED, _any_open, benchmark, benchmark_all, time_all
from edgekd.benchmarking.eager_latency import eager_ms
from edgekd.benchmarking.measure import Measured, measure
from edgekd.data import Inputs
from edgekd.devices.on_device.agent import device_facts
from edgekd.devices.transport.lock import device_key
from edgekd.errors import EdgekdError, RefusedError, UnreachableError
from edgekd.evidence.budget import judge
from edgekd.evidence.candidate import Row
from edgekd.evidence.measurement import Measurement
from edgekd.evidence.outcome import Outcome, Verdict
from edgekd.formats import find_format
from edgekd.network.network import Network
from edgekd.pipeline.candidates.instruction_counts import counted_rows, counts_on
from edgekd.pipeline.candidates.state import Goal, Work
from edgekd.recipe.benchmark import PROTOCOLS, QUICK, THOROUGH
from edgekd.system.files import write_json
from edgekd.system.packages import tool_versions
from edgekd.system.process import side_by_side
from edgekd.system.store import Run

__all__ = ["QUICK", "THOROUGH", "benchmark", "benchmark_all", "judge", "step", "time_all"]


def step(work: Work, run: Run) -> Work:
    """The work with a measurement and a verdict for every row that agrees with its network.

    Targets of one device follow one another; devices work at once.
    """
    devices: dict[str, list[Goal]] = {}
    for goal in work.goals:
        devices.setdefault(device_key(goal.target.device or "local"), []).append(goal)
    rows = dict(enumerate(work.rows))
    for judged in side_by_side(
        [partial(_on_device, goals, work, run) for goals in devices.values()]
    ):
        rows |= judged
    return _beside_teacher(replace(work, rows=tuple(rows.values())))


def _beside_teacher(work: Work) -> Work:
    """The work with its networks timed in PyTorch; the teacher is no file that a device takes."""
    found = {"student": work.student, "unpruned": work.unpruned, "teacher": work.teacher}
    networks = {name: each for name, each in found.items() if isinstance(each, Network)}
    scores = {
        f"{name}_score": replace(score, eager_ms=took)
        for name, took in eager_ms(networks).items()
        if (score := getattr(work, f"{name}_score")) is not None
    }
    return replace(work, **scores)


def _on_device(goals: Sequence[Goal], work: Work, run: Run) -> dict[int, Row]:
    """The rows of one device's targets, by their place."""
    rows: dict[int, Row] = {}
    for goal in goals:
        number = work.goals.index(goal) + 1
        run.tell("benchmark", f"{goal.target.name}, target {number} of {len(work.goals)}")
        places = {i: row for i, row in enumerate(work.rows) if row.target == goal.target.name}
        written = is_imported(goal.target.device)  # Timed by hand, whatever computed the outputs.
        timed = {
            i: row
            for i, row in places.items()
            if row.open and (written or row.evidence not in UNTIMED)
        }
        judged = _judged(timed, goal, work, run)
        if is_emulated(goal.target.device):
            judged |= _counted({i: row for i, row in places.items() if row.open}, goal, work, run)
        ours = {i: judged.get(i) or _sized(row, goal) for i, row in places.items()}
        rows |= counted_rows(ours, goal, work, run)
    return rows


def _counted(rows: Mapping[int, Row], goal: Goal, work: Work, run: Run) -> dict[int, Row]:
    """Rows of an emulated core with the instructions of an inference, and their verdicts."""
    artifacts = {row.candidate: row.artifact for row in rows.values() if row.artifact is not None}
    try:
        found = counts_on(goal.target.device or "local", artifacts, goal, work, run)
    except EdgekdError as error:
        fault = error.faults[0]
        return {i: _stopped(row, error, f"{fault.what} {fault.got}") for i, row in rows.items()}
    counted = {}
    for i, row in rows.items():
        result = found[row.candidate]
        if isinstance(result, Verdict):
            counted[i] = replace(row, outcome=result.outcome, detail=result.detail)
            continue
        verdict = judge(artifacts[row.candidate].size_bytes, None, goal.budget, result)
        detail = verdict.detail or row.detail
        counted[i] = replace(row, instructions=result, outcome=verdict.outcome, detail=detail)
    return counted


def _stopped(row: Row, error: EdgekdError, detail: str) -> Row:
    """`row` where the device itself failed."""
    outcomes = {UnreachableError: Outcome.UNAVAILABLE, RefusedError: Outcome.REFUSED}
    outcome = outcomes.get(type(error), Outcome.RUN_FAILED)
    return replace(row, outcome=outcome, detail=detail)


def _sized(row: Row, goal: Goal) -> Row:
    """A row whose artifact cannot be timed: judged by its size, which alone is known.

    What the reference evaluator or an emulated device has verified may pass so; what nothing has
    run may not.
    """
    if row.artifact is None or not (row.open or row.outcome is Outcome.UNAVAILABLE):
        return row
    verdict = judge(row.artifact.size_bytes, None, goal.budget)
    if not row.open and verdict.outcome is not Outcome.OVER_BUDGET:
        return row
    return replace(row, outcome=verdict.outcome, detail=verdict.detail or row.detail)


def _judged(rows: Mapping[int, Row], goal: Goal, work: Work, run: Run) -> dict[int, Row]:
    if not rows:
        return {}
    artifacts = {row.candidate: row.artifact for row in rows.values() if row.artifact is not None}
    parents, unpruned = _parents(list(rows.values()))
    target, samples = goal.target, work.samples("test")
    device = target.device or "local"

    def decided() -> Measured:
        inputs = samples.take(torch.arange(min(8, len(samples))))[0]
        return _decided(artifacts, parents, unpruned, goal, inputs, work, run)

    def make(folder: Path) -> None:
        found = decided()
        failed = any(isinstance(result, Verdict) for result in found.values())
        # What is not kept is measured again by the next run: failures, what is undecided, and what
        # another machine said, which may have changed since.
        if failed or device != "local" or _any_open(artifacts, goal.budget, found):
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
        "protocol": vars(PROTOCOLS[work.recipe.benchmark.protocol]),
        "data": work.data_key,
    }
    found: Mapping[str, Measurement | Verdict]
    try:
        made = run.make("benchmark", target.name, key, make)
        found = {
            name: Measurement.from_json(json.loads((made.folder / f"{name}.json").read_text()))
            for name in artifacts
        }
        if _any_open(artifacts, goal.budget, found):  # It was kept under another budget.
            found = decided()
    except _NotKept as error:
        found = error.found
        for name, result in found.items():  # For the report of this run alone.
            if isinstance(result, Measurement):
                folder = run.folder / "benchmark" / target.name
                write_json(folder / f"{name}.json", result.to_json())
    except EdgekdError as error:
        detail = f"{error.faults[0].what} {error.faults[0].got}"
        return {i: _stopped(row, error, detail) for i, row in rows.items()}
    judged = {}
    for i, row in rows.items():
        result = found[row.candidate]
        if isinstance(result, Verdict):
            judged[i] = replace(row, outcome=result.outcome, detail=result.detail)
            continue
        verdict = judge(artifacts[row.candidate].size_bytes, result, goal.budget)
        judged[i] = replace(
            row, measurement=result, outcome=verdict.outcome, detail=verdict.detail or row.detail
        )
    return judged


class _NotKept(Exception):
    """Carries measurements out of the making of a result that is not to be used again."""

    def __init__(self, found: Mapping[str, Measurement | Verdict]) -> None:
        self.found = found


def _parents(rows: Sequence[Row]) -> tuple[dict[str, str], dict[str, str]]:
    """By candidate, the one in float32 of the same network, and the same of the unpruned one."""
    names = [row.candidate for row in rows]
    parents, unpruned = {}, {}
    for row in rows:
        ours = [other.candidate for other in rows if other.network == row.network]
        parent = row.in_float if row.in_float in names else ours[0]
        if parent != row.candidate:
            parents[row.candidate] = parent
        whole = row.first_of(network="unpruned")
        if whole != row.candidate and whole in names:
            unpruned[row.candidate] = whole
    return parents, unpruned


def _decided(
    artifacts: Mapping[str, Artifact],
    parents: Mapping[str, str],
    unpruned: Mapping[str, str],
    goal: Goal,
    inputs: Inputs,
    work: Work,
    run: Run,
) -> Measured:
    """Measurements of as many looks as decide the budget, three at most."""

    def still_open(found: Measured) -> bool:
        return _any_open(artifacts, goal.budget, _of_machine(found, goal))

    def tell(told: str, done: int, total: int) -> None:
        run.tell("benchmark", f"{goal.target.name}: {told}", done, total)

    found = measure(
        artifacts,
        parents=parents,
        unpruned=unpruned,
        device=goal.target.device or "local",
        threads=goal.target.threads,
        evidence=goal.target.evidence,
        inputs=inputs,
        protocol=PROTOCOLS[work.recipe.benchmark.protocol],
        seed=run.seed,
        still_open=still_open,
        tell=tell,
    )
    return _of_machine(found, goal)


def _of_machine(found: Measured, goal: Goal) -> Measured:
    """`found` as evidence of the machine that the device said it is."""
    return {
        name: result
        if isinstance(result, Verdict)
        else replace(result, evidence=goal.target.evidence_on(result.device["machine"]))
        for name, result in found.items()
    }
