"""Thresholds of the model cascade: the bound is exact, the guarantee holds as stated."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgekd.evidence.routing import SHARES, Decisions, calibrate_route, curve_of, lower_bound
from edgekd.recipe.routing import Route


def drawn(count: int, generator: np.random.Generator) -> Decisions:
    """Decisions that are right more often if their own probability is larger."""
    probability = generator.uniform(0.3, 1.0, count)
    return Decisions(probability, generator.uniform(size=count) < 0.8 + 0.199 * probability**2)


def test_the_lower_bound_is_that_of_clopper_and_pearson() -> None:
    # All of n agree: the bound p solves p^n = error.
    for count in (10, 300):
        assert lower_bound(count, count, 0.05) == pytest.approx(0.05 ** (1 / count), abs=1e-9)
    # One of one hundred does not: 1 - p^100 - 100 (1 - p) p^99 of a smaller share has chance 0.05.
    low = lower_bound(99, 100, 0.05)
    assert low**100 + 100 * (1 - low) * low**99 == pytest.approx(0.05, abs=1e-9)
    assert lower_bound(0, 10, 0.05) == 0.0


def test_the_guarantee_holds_as_often_as_it_states() -> None:
    """Over many calibrations the true agreement is rarely under the requested one."""
    generator = np.random.default_rng(3)
    route = Route(agreement=0.93, confidence=0.9)
    broken, given = 0, 0
    for _ in range(60):
        found = calibrate_route(drawn(1500, generator), drawn(10, generator), route)
        if found.threshold is None:
            continue
        given += 1
        # Right with 0.8 + 0.199 p^2, p uniform from the threshold to 1.
        t = max(found.threshold, 0.3)
        truth = 0.8 + 0.199 * (1 - t**3) / (3 * (1 - t))
        broken += truth < route.agreement
    assert given > 30, "the test needs thresholds with a guarantee"
    # Binomial with 0.1: more than 13 of 60 has a chance of a thousandth.
    assert broken <= 13


def test_a_device_keeps_all_answers_that_agree_and_none_if_none_agrees() -> None:
    probability = np.linspace(0.2, 1.0, 700)
    yes, no = (np.full(700, value) for value in (True, False))
    whole = calibrate_route(Decisions(probability, yes), Decisions(probability, yes), Route())
    assert (whole.threshold, whole.kept_frac, whole.test_agreement_frac) == (0.0, 1.0, 1.0)
    none = calibrate_route(Decisions(probability, no), Decisions(probability, no), Route())
    assert none.threshold is None
    assert none.test_kept_frac is None
    assert "no threshold guarantees 99.0% agreement" in none.why


def test_with_too_few_samples_the_reason_states_how_many_are_needed() -> None:
    few = Decisions(np.linspace(0.2, 1.0, 50), np.full(50, True))
    found = calibrate_route(few, few, Route())
    assert found.threshold is None
    least = math.ceil(math.log(0.05 / SHARES) / math.log(0.99))
    assert f"at least {least}" in found.why
    with pytest.raises(ValueError, match="samples"):
        calibrate_route(Decisions(np.zeros(0), np.zeros(0, bool)), few, Route())


def test_thresholds_keep_growing_shares_and_never_split_ties() -> None:
    generator = np.random.default_rng(1)
    rounded = drawn(500, generator)
    tied = Decisions(np.round(rounded.probability, 1), rounded.agrees)
    curve = curve_of(tied, 0.95)
    shares = [kept.kept_frac for kept in curve]
    assert shares == sorted(shares)
    for kept in curve:
        over = tied.probability > kept.threshold
        assert kept.kept_frac == over.mean()
        assert kept.low_frac <= kept.agreement_frac
