"""A summary of latencies bounds a percentile less tightly than the samples, and never wrongly."""

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


def summary_of(samples: list[float]) -> SummarizedLatencies:
    """The summary that benchmark_model would print for samples in ms."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    figures = tuple((q, ordered[round(q * last)]) for q in (0.0, 0.05, 0.5, 0.95, 1.0))
    return SummarizedLatencies(len(samples), figures, float(np.mean(samples)))


def drawn(seed: int, count: int = 300) -> list[float]:
    generator = np.random.default_rng(seed)
    return [float(ms) for ms in 5 + generator.gamma(2.0, 0.2, count)]


@pytest.mark.parametrize("frac", [0.05, 0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("seed", range(5))
def test_its_interval_contains_that_of_the_samples(frac: float, seed: int) -> None:
    processes = [drawn(3 * seed + n) for n in range(3)]
    known = percentile([ms for each in processes for ms in each], frac)
    figure = summarized_percentile([summary_of(each) for each in processes], frac)
    assert figure.low <= known.low <= known.high <= figure.high
    assert figure.low <= figure.value <= figure.high


def test_a_percentile_is_the_reported_figure_or_the_next_one_above_it() -> None:
    samples = drawn(1)
    summary = summary_of(samples)
    assert summarized_percentile([summary], 0.5).value == dict(summary.figures)[0.5]
    assert summarized_percentile([summary], 0.9).value == dict(summary.figures)[0.95]
    older = SummarizedLatencies(50, ((0.0, 0.9), (1.0, 1.4)), 1.0)
    assert summarized_percentile([older], 0.9).value == 1.4


def test_too_few_inferences_give_no_bound() -> None:
    assert summarized_percentile([summary_of(drawn(1, 20))], 0.9).high == math.inf


def test_a_median_alone_gives_no_bounds() -> None:
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
        summaries=tuple(summary_of(each) for each in processes),
    )


def test_a_budget_is_judged_where_the_summary_allows_it() -> None:
    processes = [drawn(n) for n in range(3)]
    found = measured(processes)
    p95 = max(dict(each.figures)[0.95] for each in found.summaries)
    most = max(max(each) for each in processes)

    def outcome(limit_ms: float) -> Outcome:
        return judge_budget(1, found, Budget(latency_p90_ms=limit_ms)).outcome

    assert outcome(most + 0.1) is Outcome.PASSED
    assert outcome(p95 + 0.01) is Outcome.PASSED, "at most 5 % took longer"
    assert outcome(min(min(each) for each in processes) - 0.1) is Outcome.OVER_BUDGET
    median = dict(found.summaries[0].figures)[0.5]
    assert outcome((median + p95) / 2) is Outcome.UNDECIDED, "between two reported figures"


def test_a_summarized_measurement_survives_json() -> None:
    found = measured([drawn(n) for n in range(2)])
    document = found.to_json()
    assert Measurement.from_json(document) == found
    assert (document["sample_count"], document["process_count"]) == (600, 2)
    assert document["std_ms"] is None
    assert document["min_ms"] == min(min(drawn(n)) for n in range(2))
