"""Whether a candidate keeps its budget, judged by exact confidence bounds of percentiles."""

from __future__ import annotations

import math

from edgekd.artifacts.target import Budget
from edgekd.evidence.measurement import LEAST_OF_P99, Measurement
from edgekd.evidence.outcome import Outcome, Verdict
from edgekd.evidence.percentile import Percentile


def judge_budget(
    size_bytes: int,
    measurement: Measurement | None,
    budget: Budget,
    instructions: int | None = None,
) -> Verdict:
    """Whether a candidate of `size_bytes` keeps `budget`.

    A latency limit is kept if the upper bound of the percentile's confidence interval is under it,
    and missed if the lower bound is over it, provided that every process agrees. Otherwise it is
    undecided. For a flagged measurement (throttled, drifting) the sustained latency is judged: the
    last third of each process, which can miss a limit but never keep one. An artifact that was not
    timed cannot keep a limit on latency or memory. Instruction counts are exact, repeatable to a
    few instructions, and are never compared with a latency.
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
    uncounted = 'instructions: not counted; set device = "emulated://cortex-a76" to count them'
    verdicts = [
        *([Verdict(Outcome.UNDECIDED, uncounted)] if limit and instructions is None else []),
        *(
            _untimed(budget, instructions)
            if measurement is None
            else [_memory(measurement, budget), *_latencies(measurement, budget)]
        ),
    ]
    for verdict in verdicts:
        if verdict.outcome is Outcome.OVER_BUDGET:
            return verdict
    undecided = [each.detail for each in verdicts if each.outcome is Outcome.UNDECIDED]
    if undecided:
        return Verdict(Outcome.UNDECIDED, "; ".join(undecided))
    return Verdict(Outcome.PASSED, "")


def _untimed(budget: Budget, instructions: int | None) -> list[Verdict]:
    """The verdict on the latency and memory limits of an artifact that was not timed."""
    keys = [_key(frac) for frac in budget.percentiles]
    keys += ["peak_memory_bytes"] if budget.peak_memory_bytes is not None else []
    why = "not timed, no device was available"
    if instructions is not None:
        why = "emulated time is not device latency"
    return [Verdict(Outcome.UNDECIDED, f"{', '.join(keys)}: {why}")] if keys else []


def _memory(measurement: Measurement, budget: Budget) -> Verdict:
    memory, limit = measurement.peak_memory_bytes, budget.peak_memory_bytes
    if limit is None:
        return Verdict(Outcome.PASSED, "")
    if measurement.evidence != "device":
        why = f"peak_memory_bytes: measured on the {measurement.evidence}, not on the device"
        return Verdict(Outcome.UNDECIDED, why)
    if memory is None:
        return Verdict(
            Outcome.UNDECIDED, "peak_memory_bytes: the device does not report its peak memory"
        )
    if memory > limit:
        why = f"{memory} bytes of memory are over peak_memory_bytes = {limit}"
        return Verdict(Outcome.OVER_BUDGET, why)
    return Verdict(Outcome.PASSED, "")


def _latencies(measurement: Measurement, budget: Budget) -> list[Verdict]:
    return [_latency(measurement, *limit) for limit in budget.percentiles.items()]


def _latency(measurement: Measurement, frac: float, limit_ms: float) -> Verdict:
    key, flags = _key(frac), measurement.flags
    if measurement.evidence != "device":
        where = f"{measurement.evidence}, not on the device"
        return Verdict(Outcome.UNDECIDED, f"{key}: measured on the {where}")
    count = measurement.sample_count
    if frac >= 0.99 and count < LEAST_OF_P99:
        why = f"{key}: {count} samples, at least {LEAST_OF_P99} are needed"
        return Verdict(Outcome.UNDECIDED, why)
    figure = measurement.percentile_ms(frac, sustained=bool(flags))
    comparison = f"{_shown(figure)} ms against {key} = {limit_ms}"
    if flags:
        comparison = f"sustained {comparison}; {', '.join(flags)}"
    # An accident of one process is common to all its samples, so every process must agree.
    each = measurement.process_percentiles_ms(frac, sustained=bool(flags))
    if figure.low > limit_ms and min(each) > limit_ms:
        return Verdict(Outcome.OVER_BUDGET, comparison)
    if figure.high < limit_ms and max(each) < limit_ms:
        return Verdict(Outcome.UNDECIDED if flags else Outcome.PASSED, comparison)
    processes = f"; by process {min(each):.4g} to {max(each):.4g}"
    return Verdict(Outcome.UNDECIDED, comparison + processes)


def _key(frac: float) -> str:
    return f"latency_p{round(100 * frac)}_ms"


def _shown(figure: Percentile) -> str:
    low = f"{figure.low:.4g}" if math.isfinite(figure.low) else "?"
    high = f"{figure.high:.4g}" if math.isfinite(figure.high) else "?"
    return f"{figure.value:.4g} ({low} to {high})"
