from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import accumulate

import numpy as np
import pytest

from edgekd.evidence.percentile import (
    binomial_cdf,
    bounding_ranks,
    effective_count,
    nearest_rank,
    percentile,
)


def test_a_percentile_is_the_nearest_rank() -> None:
    samples = [float(i) for i in range(1, 11)]
    random.Random(0).shuffle(samples)
    assert [percentile(samples, frac).value for frac in (0.5, 0.9, 0.99)] == [5, 9, 10]
    assert percentile([3.0], 0.9).value == 3


def test_a_percentile_needs_a_sample() -> None:
    with pytest.raises(ValueError, match="at least one"):
        percentile([], 0.5)


def test_the_binomial_distribution_equals_the_textbook_sum() -> None:
    exact = [math.comb(5, k) * 0.9**k * 0.1 ** (5 - k) for k in range(6)]
    assert binomial_cdf(5, 0.9) == pytest.approx([math.fsum(exact[: k + 1]) for k in range(6)])


@pytest.mark.parametrize(
    ("count", "confidence", "rank"),
    [(200, 0.95, 188), (500, 0.95, 462), (1000, 0.95, 916), (200, 0.99, 190), (1000, 0.99, 922)],
)
def test_the_upper_bound_is_the_order_statistic_of_the_published_table(
    count: int, confidence: float, rank: int
) -> None:
    # MLPerf's early stopping is one-sided: our two-sided interval has half the error above.
    generator = random.Random(1)
    samples = [generator.random() for _ in range(count)]
    value = percentile(samples, 0.9).value
    assert effective_count(samples, value) >= 0.6 * count
    ordered = sorted(samples)
    high = [
        percentile(shuffled, 0.9, confidence=2 * confidence - 1).high
        for shuffled in _orders(samples, value)
    ]
    assert high[0] == ordered[rank - 1]


def _orders(samples: list[float], value: float) -> list[list[float]]:
    """An order of `samples` without autocorrelation, so that every sample counts in full."""
    for seed in range(1000):
        order = random.Random(seed).sample(samples, len(samples))
        if effective_count(order, value) == len(samples):
            return [order]
    raise AssertionError("no such order")


def test_few_samples_give_no_bound() -> None:
    # P(Bin(28, 0.9) <= 27) is under 0.95: 29 samples are the fewest that bound a p90 from above.
    assert percentile([1.0] * 28, 0.9, confidence=0.9).high == math.inf
    assert percentile([1.0] * 29, 0.9, confidence=0.9).high == 1.0


def test_intervals_contain_the_true_percentile_as_often_as_stated() -> None:
    generator = random.Random(2)
    truth = -math.log(0.1)
    held = 0
    for _ in range(300):
        found = percentile([generator.expovariate(1.0) for _ in range(150)], 0.9, confidence=0.95)
        held += found.low <= truth <= found.high
    # 3 standard deviations of a binomial with 300 trials under 0.95.
    assert held >= 300 * 0.95 - 3 * math.sqrt(300 * 0.95 * 0.05)


def test_correlated_samples_count_for_less() -> None:
    generator = random.Random(3)
    runs = [float(level) for level in (generator.random() for _ in range(100)) for _ in range(10)]
    value = nearest_rank(np.sort(runs), 0.9)
    assert effective_count(runs, value) < 300
    narrow = percentile(generator.sample(runs, len(runs)), 0.9)
    wide = percentile(runs, 0.9)
    assert wide.high - wide.low > narrow.high - narrow.low


@pytest.mark.parametrize("share", [Fraction(1, 2), Fraction(9, 10), Fraction(99, 100)])
def test_the_ranks_equal_those_of_an_exhaustive_search_in_fractions(share: Fraction) -> None:
    tail = Fraction(5, 600)  # one side of one look of three, of 95 % together
    yes, of = share.as_integer_ratio()
    for count in (1, 2, 5, 13, 44, 45, 100, 478, 500):
        # In integers: `of` to the power `count` equally likely outcomes.
        mass = [math.comb(count, k) * yes**k * (of - yes) ** (count - k) for k in range(count + 1)]
        below = [0, *accumulate(mass)]  # P(X <= r - 1)
        fit_high = [r for r in range(1, count + 1) if below[r] >= (1 - tail) * of**count]
        fit_low = [r for r in range(1, count + 1) if below[r] <= tail * of**count]
        expected = (max(fit_low, default=0), min(fit_high, default=count + 1))
        assert bounding_ranks(count, float(share), float(tail)) == expected


def _latencies(generator: random.Random, count: int, memory: float) -> list[float]:
    """Log-normal latencies that correlate with the one before."""
    level, found = generator.gauss(0, 1), []
    for _ in range(count):
        found.append(math.exp(0.1 * level))
        level = memory * level + math.sqrt(1 - memory**2) * generator.gauss(0, 1)
    return found


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.8])
def test_a_missed_budget_is_seldom_called_kept_even_if_samples_correlate(
    memory: float,
) -> None:
    generator = random.Random(4)
    truth = math.exp(0.1 * 1.2815515655446004)  # the p90, whatever the memory
    rounds, confidence = 200, 0.9
    wrong = sum(
        percentile(_latencies(generator, 200, memory), 0.9, confidence=confidence).high < truth
        for _ in range(rounds)
    )
    allowed = (1 - confidence) / 2
    # 3 standard deviations of a binomial, and half as much again: the autocorrelation is estimated.
    assert wrong <= 1.5 * rounds * allowed + 3 * math.sqrt(rounds * allowed * (1 - allowed))


def test_ignoring_the_autocorrelation_would_call_it_kept_far_too_often() -> None:
    generator = random.Random(5)
    truth = math.exp(0.1 * 1.2815515655446004)
    rounds, wrong = 200, 0
    for _ in range(rounds):
        ordered = sorted(_latencies(generator, 300, 0.8))
        _, high = bounding_ranks(300, 0.9, 0.05)
        wrong += ordered[high - 1] < truth
    assert wrong > 2 * 0.05 * rounds
