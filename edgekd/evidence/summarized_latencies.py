"""Latencies from a tool that reports a summary instead of samples, and percentiles from them.

LiteRT's benchmark_model reports the minimum, the maximum and some percentiles of a run. Each is an
order statistic, and so is an exact bound on a percentile. The next reported figure beyond a bound
is therefore a bound too: wider than the one from samples, with the same confidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgekd.evidence.percentile import Percentile, bounding_ranks

DEPENDENCE = 1.5
"""The divisor from samples to independent samples: without their order it cannot be estimated.

Measured: lag-1 autocorrelations of 0.21 to 0.25, and none beyond.
"""

SLACK = 1
"""The number of ranks by which tools differ in their definition of a percentile."""


@dataclass(frozen=True)
class SummarizedLatencies:
    """The summary of one process's inferences.

    Attributes:
        count: the number of inferences.
        figures: pairs of a share (0-1) and the latency in ms that this share does not exceed,
            ascending; share 0 is the minimum and share 1 the maximum.
    """

    count: int
    figures: tuple[tuple[float, float], ...]
    mean_ms: float | None = None


def summarized_percentile(
    processes: Sequence[SummarizedLatencies], frac: float, *, confidence: float = 0.95
) -> Percentile:
    """The percentile `frac` (0-1) of all `processes`, in ms, with its interval.

    The value is the smallest reported figure at or above the percentile: the percentile itself if
    it was reported, and infinite if no such figure was.
    """
    count = sum(each.count for each in processes)
    worth = max(1, int(count / DEPENDENCE))
    low, high = bounding_ranks(worth, frac, (1.0 - confidence) / 2.0)
    over = [_over(each, frac) for each in processes]
    value = sorted(over)[len(over) // 2]
    slack = SLACK / min(each.count for each in processes)
    return Percentile(
        value=value,
        low=min(_under(each, (low - 1) / worth - slack) for each in processes)
        if low
        else -math.inf,
        high=max(_over(each, high / worth + slack) for each in processes)
        if high <= worth
        else math.inf,
    )


def _over(process: SummarizedLatencies, frac: float) -> float:
    """The smallest reported latency that at least `frac` of the inferences do not exceed."""
    return next((ms for share, ms in process.figures if share >= frac), math.inf)


def _under(process: SummarizedLatencies, frac: float) -> float:
    """The largest reported latency that at most `frac` of the inferences do not exceed."""
    below = [ms for share, ms in process.figures if share <= frac]
    return below[-1] if below else -math.inf
