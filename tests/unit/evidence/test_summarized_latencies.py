"""What a tool tells that keeps no samples bounds a percentile less tightly, and never wrongly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgekd.artifacts.target import Budget
from edgekd.evidence.budget import judge_budget
from edgekd.evidence.measurement import Measurement
from edgekd.evidence.outcome import Outcome
from edgekd.evidence.percentile import percentile
from edgekd.evidence.summarized_latencies import SummarizedLatencies, summarized_percentile


def told_of(samples: list[float]) -> SummarizedLatencies:
    """What benchmark_model would say of samples in ms."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    figures = tuple((q, ordered[round(q * last)]) for q in (0.0, 0.05, 0.5, 0.95, 1.0))
    return SummarizedLatencies(len(samples), figures, float(np.mean(samples)))


def drawn(seed: int, count: int = 300) -> list[float]:
    generator = np.random.default_rng(seed)
    return [float(ms) for ms in 5 + generator.gamma(2.0, 0.2, count)]


@pytest.mark.parametrize("frac", [0.05, 0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("seed", range(5))
def test_its_interval_holds_that_of_the_samples(frac: float, seed: int) -> None:
    processes = [drawn(3 * seed + n) for n in range(3)]
    known = percentile([ms for each in processes for ms in each], frac)
    told = summarized_percentile([told_of(each) for each in processes], frac)
    assert told.low <= known.low <= known.high <= told.high
    assert told.low <= told.value <= told.high


def test_what_was_told_is_told_and_the_next_figure_stands_for_the_rest() -> None:
    samples = drawn(1)
    told = told_of(samples)
    assert summarized_percentile([told], 0.5).value == dict(told.figures)[0.5]
    assert summarized_percentile([told], 0.9).value == dict(told.figures)[0.95]
    older = SummarizedLatencies(50, ((0.0, 0.9), (1.0, 1.4)), 1.0)
    assert summarized_percentile([older], 0.9).value == 1.4


def test_too_few_runs_bound_nothing() -> None:
    assert summarized_percentile([told_of(drawn(1, 20))], 0.9).high == math.inf


def test_a_median_alone_decides_nothing() -> None:
    xcode = SummarizedLatencies(100, ((0.5, 1.2),))
    figure = summarized_percentile([xcode], 0.5)
    assert (figure.value, figure.low, figure.high) == (1.2, -math.inf, math.inf)
    assert summarized_percentile([xcode], 0.9).value == math.inf


def measured(processes: list[list[float]]) -> Measurement:
    return Measurement(
        samples_ns=(),
        warm_up_count=3,
        init_ms=1.0,
        first_ms=1.0,
        peak_memory_bytes=None,
        threads=1,
        evidence="device",
        summaries=tuple(told_of(each) for each in processes),
    )


def test_a_budget_is_judged_where_it_can_be() -> None:
    processes = [drawn(n) for n in range(3)]
    found = measured(processes)
    p95 = max(dict(each.figures)[0.95] for each in found.summaries)
    most = max(max(each) for each in processes)

    def outcome(limit_ms: float) -> Outcome:
        return judge_budget(1, found, Budget(latency_p90_ms=limit_ms)).outcome

    assert outcome(most + 0.1) is Outcome.PASSED
    assert outcome(p95 + 0.01) is Outcome.PASSED, "no more than 5 % took longer than that"
    assert outcome(min(min(each) for each in processes) - 0.1) is Outcome.OVER_BUDGET
    median = dict(found.summaries[0].figures)[0.5]
    assert outcome((median + p95) / 2) is Outcome.UNDECIDED, "between what was told"


def test_it_is_the_same_after_a_file() -> None:
    found = measured([drawn(n) for n in range(2)])
    document = found.to_json()
    assert Measurement.from_json(document) == found
    assert (document["sample_count"], document["process_count"]) == (600, 2)
    assert document["std_ms"] is None
    assert document["min_ms"] == min(min(drawn(n)) for n in range(2))
