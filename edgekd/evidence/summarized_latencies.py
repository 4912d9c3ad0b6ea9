"""What a tool that keeps no single sample tells of its runs, and what follows for a percentile.

LiteRT's benchmark_model tells the least, the most and some percentiles of a run. Each is an order
statistic, so that an exact bound on a percentile, which is one between order statistics too, lies
under the next one that was told: wider than samples would have it, and as sure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgekd.evidence.percentile import Percentile, bounding_ranks

DEPENDENCE = 1.5
"""By what the number of samples is divided, for they are not independent and their order, which
would say how much, was not kept. Measured: lag-1 autocorrelations of 0.21 to 0.25, none beyond."""
SLACK = 1
"""Tools differ by a rank in what they call a percentile."""


@dataclass(frozen=True)
class SummarizedLatencies:
    """A process's runs.

    Attributes:
        count: how many.
        figures: share (0-1) of the runs that took no longer than so many ms, ascending: 0 is the
            least of them, and 1 the most.
    """

    count: int
    figures: tuple[tuple[float, float], ...]
    mean_ms: float | None = None


def summarized_percentile(
    processes: Sequence[SummarizedLatencies], frac: float, *, confidence: float = 0.95
) -> Percentile:
    """The percentile `frac` (0-1) of the runs of all `processes`, in ms, with its interval.

    Its value is the least figure told that is no less than it: its own where that was told, and
    infinite where none was.
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
    """The least figure told that at least `frac` of the runs were within."""
    return next((ms for share, ms in process.figures if share >= frac), math.inf)


def _under(process: SummarizedLatencies, frac: float) -> float:
    """The largest figure told that at most `frac` of the runs were within."""
    below = [ms for share, ms in process.figures if share <= frac]
    return below[-1] if below else -math.inf
