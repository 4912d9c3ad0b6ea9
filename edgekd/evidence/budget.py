"""Whether a candidate keeps its budget: exact bounds on percentiles; what they leave open."""

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

    A percentile is met when the upper bound of its confidence interval is under the limit, missed
    when the lower bound is over it, and every process says the same; otherwise undecided. Of a
    measurement that is flagged, as throttled or drifting, the last third of each process is judged:
    that is what is sustained; it may miss a limit and never passes one. What was not timed at all
    cannot keep a limit on time or memory. Instructions are exact: counted again they are the same
    to a few, and they are never held against a time.
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
    found = [
        *([Verdict(Outcome.UNDECIDED, uncounted[0])] if limit and instructions is None else []),
        *(
            _untimed(budget, instructions)
            if measurement is None
            else [_memory(measurement, budget), *_latencies(measurement, budget)]
        ),
    ]
    for verdict in found:
        if verdict.outcome is Outcome.OVER_BUDGET:
            return verdict
    still_open = [each.detail for each in found if each.outcome is Outcome.UNDECIDED]
    if still_open:
        return Verdict(Outcome.UNDECIDED, "; ".join(still_open))
    return Verdict(Outcome.PASSED, "")


def _untimed(budget: Budget, instructions: int | None) -> list[Verdict]:
    """What follows from `budget` where nothing was timed."""
    keys = [_key(frac) for frac in budget.percentiles]
    keys += ["peak_memory_bytes"] if budget.peak_memory_bytes is not None else []
    why = "it was not timed, for want of a device"
    if instructions is not None:
        why = "the time of an emulated core is none of a board's"
    return [Verdict(Outcome.UNDECIDED, f"{', '.join(keys)}: {why}")] if keys else []


def _memory(measurement: Measurement, budget: Budget) -> Verdict:
    memory, limit = measurement.peak_memory_bytes, budget.peak_memory_bytes
    if limit is None:
        return Verdict(Outcome.PASSED, "")
    if measurement.evidence != "device":
        told = f"peak_memory_bytes: measured on the {measurement.evidence}"
        return Verdict(Outcome.UNDECIDED, told)
    if memory is None:
        return Verdict(Outcome.UNDECIDED, "the device does not tell its peak memory")
    if memory > limit:
        told = f"{memory} bytes of memory are over peak_memory_bytes = {limit}"
        return Verdict(Outcome.OVER_BUDGET, told)
    return Verdict(Outcome.PASSED, "")


def _latencies(measurement: Measurement, budget: Budget) -> list[Verdict]:
    return [_latency(measurement, *limit) for limit in budget.percentiles.items()]


def _latency(measurement: Measurement, frac: float, limit_ms: float) -> Verdict:
    key, flags = _key(frac), measurement.flags
    if measurement.evidence != "device":
        where = f"{measurement.evidence}, not on the device itself"
        return Verdict(Outcome.UNDECIDED, f"{key}: measured on the {where}")
    count = measurement.sample_count
    if frac >= 0.99 and count < LEAST_OF_P99:
        told = f"{key}: {count} samples, and it takes {LEAST_OF_P99}"
        return Verdict(Outcome.UNDECIDED, told)
    figure = measurement.percentile_ms(frac, sustained=bool(flags))
    told = f"{_shown(figure)} ms against {key} = {limit_ms}"
    if flags:
        told += f" in what is sustained; {', '.join(flags)}"
    # A process's luck is common to all its samples, so each process must say the same.
    each = measurement.process_percentiles_ms(frac, sustained=bool(flags))
    if figure.low > limit_ms and min(each) > limit_ms:
        return Verdict(Outcome.OVER_BUDGET, told)
    if figure.high < limit_ms and max(each) < limit_ms:
        return Verdict(Outcome.UNDECIDED if flags else Outcome.PASSED, told)
    processes = f"; by process {min(each):.4g} to {max(each):.4g}"
    return Verdict(Outcome.UNDECIDED, told + processes)


def _key(frac: float) -> str:
    return f"latency_p{round(100 * frac)}_ms"


def _shown(figure: Percentile) -> str:
    low = f"{figure.low:.4g}" if math.isfinite(figure.low) else "?"
    high = f"{figure.high:.4g}" if math.isfinite(figure.high) else "?"
    return f"{figure.value:.4g} (from {low} to {high})"
