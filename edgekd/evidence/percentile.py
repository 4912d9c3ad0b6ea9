"""Percentiles of latencies, with exact confidence intervals.

A percentile is by nearest rank: the smallest sample with at least that share of samples at or below
it. Its confidence interval lies between two order statistics and is exact for independent samples:
the number of samples at or below the true percentile is binomial (David and Nagaraja, Order
Statistics, 3rd ed., section 7.1). Latencies are not independent, so the binomial uses the effective
sample count, n / (1 + 2 * the sum of the autocorrelations of "over the percentile").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_LAG = 20
"""The largest lag of the sum. Autocorrelations of latency are about 0 beyond lag 2; the sum also
stops at the first one that is not positive."""


@dataclass(frozen=True)
class Percentile:
    """A percentile and its confidence interval, in the samples' unit.

    `low` is -inf and `high` is inf if there are too few samples for a bound.
    """

    value: float
    low: float
    high: float


def nearest_rank(ordered: NDArray[np.float64], frac: float) -> float:
    """The percentile `frac` (0-1) of samples in ascending order, by nearest rank."""
    return float(ordered[max(0, math.ceil(frac * len(ordered)) - 1)])


def binomial_cdf(trials: int, frac: float) -> NDArray[np.float64]:
    """P(X <= k) for k from 0 to `trials`, X binomial with `trials` trials of probability `frac`."""
    k = np.arange(1, trials + 1)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log((trials - k + 1) / k))])
    count = np.arange(trials + 1)
    log_mass = log_choose + count * math.log(frac) + (trials - count) * math.log1p(-frac)
    cdf: NDArray[np.float64] = np.minimum(1.0, np.cumsum(np.exp(log_mass)))
    return cdf


def effective_count(samples: Sequence[float], threshold: float) -> int:
    """The effective number of independent samples in `samples`, which are in the order taken."""
    n = len(samples)
    over = np.asarray(samples) > threshold
    centred = over - over.mean()
    variance = float(centred @ centred)
    if variance == 0.0:
        return n
    total = 0.0
    for lag in range(1, min(MAX_LAG, n - 1) + 1):
        rho = float(centred[lag:] @ centred[:-lag]) / variance
        if rho <= 0.0:
            break
        total += rho
    return max(1, int(n / (1.0 + 2.0 * total)))


def bounding_ranks(count: int, frac: float, tail: float) -> tuple[int, int]:
    """The ranks, from 1, of the order statistics that bound the percentile `frac` of `count`.

    Each bound fails with probability `tail` at most, for every distribution. The ranks are 0 and
    `count` + 1 if there are too few samples for a bound.
    """
    # The r-th lies at or over the true percentile with probability P(X <= r - 1), and at or under
    # it with probability P(X >= r).
    cdf = binomial_cdf(count, frac)[:count]
    high = int(np.searchsorted(cdf, 1.0 - tail)) + 1  # the least r with cdf[r - 1] >= 1 - tail
    low = int(np.searchsorted(cdf, tail, side="right"))  # the largest with cdf[r - 1] <= tail
    return low, high


def percentile(samples: Sequence[float], frac: float, *, confidence: float = 0.95) -> Percentile:
    """The percentile `frac` (0-1) of `samples`, in the order they were taken, with its interval.

    Each bound alone holds with probability (1 + confidence) / 2.

    Raises:
        ValueError: there is no sample.
    """
    if not samples:
        raise ValueError("a percentile needs at least one sample")
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    value = nearest_rank(ordered, frac)
    n = len(ordered)
    worth = effective_count(samples, value)
    low, high = bounding_ranks(worth, frac, (1.0 - confidence) / 2.0)
    return Percentile(
        value=value,
        low=float(ordered[math.floor((low - 1) * n / worth)]) if low else -math.inf,
        high=float(ordered[min(n, math.ceil(high * n / worth)) - 1]) if high <= worth else math.inf,
    )
