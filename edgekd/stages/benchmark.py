"""Time artifacts where they will run, side by side, and hold them against their budgets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from edgekd.artifact import Artifact
from edgekd.data import Inputs
from edgekd.devices import failure_error
from edgekd.devices.agent import device_facts
from edgekd.errors import EdgekdError, RefusedError, UnreachableError
from edgekd.evidence import Measurement, Outcome, Row, Verdict
from edgekd.formats import find_format
from edgekd.instructions import count_instructions, counted_by
from edgekd.measure import LOOKS, Protocol, measure
from edgekd.need import tool_versions
from edgekd.percentile import Percentile
from edgekd.store import Run, write_json
from edgekd.target import Budget, is_emulated
from edgekd.work import Goal, Work

THOROUGH = Protocol()
UNTIMED = ("reference", "emulated")
"""The evidence of rows that are not timed: there is no runtime, or its time is no latency."""

QUICK = Protocol(processes=1, runs=60, seconds=0.05, warm_up_s=0.05)


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
        UnreachableError: the device cannot be reached, or has no runtime for it.
    """
    return benchmark_all(
        [artifact], device=device, threads=threads, inputs=inputs, protocol=protocol, seed=seed
    )[0]


def benchmark_all(
    artifacts: Sequence[Artifact],
    *,
    device: str = "local",
    threads: int = 1,
    inputs: Inputs | None = None,
    protocol: Protocol = THOROUGH,
    seed: int = 0,
) -> list[Measurement]:
    """The measurements of `artifacts`, those of one runtime interleaved; see `benchmark`.

    Each of a runtime after its first has the ratio of its median to the first's.
    """
    found: dict[int, Measurement] = {}
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
        )
        for name, artifact in members.items():
            result = measured[name]
            if isinstance(result, Verdict):
                raise failure_error(result, artifact)
            found[int(name.removeprefix("artifact-"))] = result
    return [found[number] for number in range(len(artifacts))]


def judge(
    size_bytes: int,
    measurement: Measurement | None,
    budget: Budget,
    instructions: int | None = None,
) -> Verdict:
    """Whether a candidate of `size_bytes` keeps `budget`.

    A percentile is met when the upper bound of its confidence interval is under the limit, missed
    when the lower bound is over it, otherwise undecided. Where the time drifted while it was
    measured, the last third of each process is judged: that is what is sustained. What was not
    timed at all cannot keep a limit on time or memory. Instructions are exact: counted again they
    are the same to a few, and they are never held against a time.
    """
    if budget.size_bytes is not None and size_bytes > budget.size_bytes:
        return Verdict(
            Outcome.OVER_BUDGET, f"{size_bytes} bytes are over size_bytes = {budget.size_bytes}"
        )
    limit = budget.instructions
    if limit is not None and instructions is not None and instructions > limit:
        return Verdict(
            Outcome.OVER_BUDGET, f"{instructions} instructions are over instructions = {limit}"
        )
    uncounted = ['instructions: counted on an emulated core, device = "emulated://cortex-a76"']
    open_questions = uncounted if limit is not None and instructions is None else []
    if measurement is None:
        keys = [f"latency_p{round(100 * frac)}_ms" for frac in budget.percentiles]
        keys += ["peak_memory_bytes"] if budget.peak_memory_bytes is not None else []
        if not keys and not open_questions:
            return Verdict(Outcome.PASSED, "")
        why = "it was not timed, for want of a device"
        if instructions is not None:
            why = "the time of an emulated core is none of a board's"
        open_questions += [f"{', '.join(keys)}: {why}"] * bool(keys)
        return Verdict(Outcome.UNDECIDED, "; ".join(open_questions))
    memory, limit = measurement.peak_memory_bytes, budget.peak_memory_bytes
    if limit is not None and measurement.evidence != "device":
        open_questions.append(f"peak_memory_bytes: measured on the {measurement.evidence}")
    elif limit is not None and memory is None:
        open_questions.append("the device does not tell its peak memory")
    elif limit is not None and memory is not None and memory > limit:
        return Verdict(
            Outcome.OVER_BUDGET, f"{memory} bytes of memory are over peak_memory_bytes = {limit}"
        )
    for frac, limit_ms in budget.percentiles.items():
        key = f"latency_p{round(100 * frac)}_ms"
        figure = measurement.percentile_ms(frac, sustained=not measurement.steady)
        told = f"{_shown(figure)} ms against {key} = {limit_ms}"
        if measurement.evidence != "device":
            where = f"{measurement.evidence}, not on the device itself"
            open_questions.append(f"{key}: measured on the {where}")
            continue
        # A process's luck is common to all its samples, so each process must say the same.
        each = measurement.process_percentiles_ms(frac, sustained=not measurement.steady)
        if figure.low > limit_ms and min(each) > limit_ms:
            return Verdict(Outcome.OVER_BUDGET, told)
        if not (figure.high < limit_ms and max(each) < limit_ms):
            open_questions.append(f"{told}; by process {min(each):.4g} to {max(each):.4g}")
    if open_questions:
        return Verdict(Outcome.UNDECIDED, "; ".join(open_questions))
    return Verdict(Outcome.PASSED, "")


def _shown(figure: Percentile) -> str:
    low = f"{figure.low:.4g}" if math.isfinite(figure.low) else "?"
    high = f"{figure.high:.4g}" if math.isfinite(figure.high) else "?"
    return f"{figure.value:.4g} (from {low} to {high})"


def step(work: Work, run: Run) -> Work:
    """The work with a measurement and a verdict for every row that agrees with its network."""
    rows = list(work.rows)
    for number, goal in enumerate(work.goals):
        run.tell("benchmark", goal.target.name, number + 1, len(work.goals))
        places = {i: row for i, row in enumerate(rows) if row.target == goal.target.name}
        timed = {i: row for i, row in places.items() if row.open and row.evidence not in UNTIMED}
        judged = _judged(timed, goal, work, run)
        if is_emulated(goal.target.device):
            judged |= _counted({i: row for i, row in places.items() if row.open}, goal, work, run)
        for i, row in places.items():
            rows[i] = judged.get(i) or _sized(row, goal)
    return replace(work, rows=tuple(rows))


def _counted(rows: Mapping[int, Row], goal: Goal, work: Work, run: Run) -> dict[int, Row]:
    """Rows of an emulated core with the instructions of an inference, and their verdicts."""
    artifacts = {row.candidate: row.artifact for row in rows.values() if row.artifact is not None}
    if not artifacts:
        return {}
    target, samples = goal.target, work.samples("test")
    device = target.device or "local"
    inputs = samples.take(torch.arange(min(8, len(samples))))[0]

    def make(folder: Path) -> None:
        found = count_instructions(artifacts, device, inputs)
        if any(isinstance(each, Verdict) for each in found.values()):
            raise _NotCounted(found)
        write_json(folder / "instructions.json", found)

    key = {
        "artifacts": {name: artifact.sha256 for name, artifact in artifacts.items()},
        "device": device,
        "counter": counted_by(),
        "runtime": tool_versions(find_format(target.format).PACKAGES),
        "data": work.data_key,
    }
    found: Mapping[str, Verdict | int]
    try:
        made = run.make("benchmark", target.name, key, make)
        found = json.loads((made.folder / "instructions.json").read_text())
    except _NotCounted as error:
        found = error.found
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


class _NotCounted(Exception):
    """Carries counts, and what failed, out of the making of a result that is not kept."""

    def __init__(self, found: Mapping[str, Verdict | int]) -> None:
        self.found = found


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

    def decided() -> dict[str, Measurement | Verdict]:
        inputs = samples.take(torch.arange(min(8, len(samples))))[0]
        return _decided(artifacts, parents, unpruned, goal, inputs, run)

    def make(folder: Path) -> None:
        found = decided()
        failed = any(isinstance(result, Verdict) for result in found.values())
        # What is not kept is measured again by the next run: failures, what is undecided, and what
        # another machine said, which may have changed since.
        if failed or device != "local" or _any_open(artifacts, found, goal):
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
        "protocol": vars(THOROUGH),
        "data": work.data_key,
    }
    found: Mapping[str, Measurement | Verdict]
    try:
        made = run.make("benchmark", target.name, key, make)
        found = {
            name: Measurement.from_json(json.loads((made.folder / f"{name}.json").read_text()))
            for name in artifacts
        }
        if _any_open(artifacts, found, goal):  # It was kept under another budget.
            found = decided()
    except _NotKept as error:
        found = error.found
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
        first = row.first_of(scheme="fp32")
        parent = first if first in ours else ours[0]
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
    run: Run,
) -> dict[str, Measurement | Verdict]:
    """Measurements of as many looks as decide the budget, `LOOKS` at most."""
    found: dict[str, Measurement | Verdict] = {}
    for look in range(LOOKS):
        more = measure(
            artifacts,
            parents=parents,
            unpruned=unpruned,
            device=goal.target.device or "local",
            threads=goal.target.threads,
            evidence=goal.target.evidence,
            inputs=inputs,
            protocol=THOROUGH,
            seed=run.seed + 1000 * look,
        )
        found = {name: _pooled(found.get(name), result) for name, result in more.items()}
        if not _any_open(artifacts, found, goal):
            break
    return {name: _of_machine(result, goal) for name, result in found.items()}


def _of_machine(result: Measurement | Verdict, goal: Goal) -> Measurement | Verdict:
    """`result` as evidence of the machine that the device said it is."""
    if isinstance(result, Verdict):
        return result
    return replace(result, evidence=goal.target.evidence_on(result.device["machine"]))


def _any_open(
    artifacts: Mapping[str, Artifact], found: Mapping[str, Measurement | Verdict], goal: Goal
) -> bool:
    return any(_open(artifacts[name], result, goal) for name, result in found.items())


def _open(artifact: Artifact, result: Measurement | Verdict, goal: Goal) -> bool:
    """Whether more samples could decide what is undecided."""
    if isinstance(result, Verdict) or result.evidence != "device":
        return False
    verdict = judge(artifact.size_bytes, result, goal.budget)
    return verdict.outcome is Outcome.UNDECIDED and bool(goal.budget.percentiles)


def _pooled(
    before: Measurement | Verdict | None, after: Measurement | Verdict
) -> Measurement | Verdict:
    """The samples of both looks; the ratio of the later one."""
    if not isinstance(before, Measurement) or not isinstance(after, Measurement):
        return after
    return replace(
        after,
        samples_ns=before.samples_ns + after.samples_ns,
        warm_up_count=before.warm_up_count + after.warm_up_count,
    )
