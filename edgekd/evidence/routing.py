"""Confidence routing: the answers a device keeps, and those for which it asks the larger model.

A network is kept to where its largest probability is over a threshold. The threshold is calibrated
on the validation split so that, of what is kept, at least a stated share agrees with the teacher,
with a stated confidence and whatever the network is: the bound is exact for samples that are drawn
alike, and holds for all shares that are tried together.

Source: Geifman, El-Yaniv 2017, Selective Classification for Deep Neural Networks,
arXiv:1705.08500, section 3; Angelopoulos et al. 2021, Learn then Test, arXiv:2110.01052, section 2
(a test for each threshold, their errors held together by Bonferroni); Clopper, Pearson 1934,
doi:10.1093/biomet/26.4.404.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.evidence.percentile import binomial_cdf
from edgekd.recipe.routing import Route

DECISIONS = "decisions.npz"
"""Beside an agreement, where outputs are of classes: what was decided on each sample."""


SHARES = 20
"""How many shares are tried: every twentieth of the validation split."""


@dataclass(frozen=True)
class RoutedShare:
    """What a threshold keeps, by the samples it was calibrated on.

    Attributes:
        threshold: of the largest probability; what is over it is kept. 0 keeps everything.
        kept_frac: share of the samples that is kept.
        agreement_frac: share of those that agree with the teacher.
        low_frac: lower confidence bound of that share, valid for all thresholds together.
    """

    threshold: float
    kept_frac: float
    agreement_frac: float
    low_frac: float


@dataclass(frozen=True)
class Routing:
    """A threshold with its promise, and what came of it on the test split.

    Attributes:
        threshold: None where no threshold keeps the promise.
        why: in a sentence, what is promised, or why nothing can be.
        agreement, confidence: what was asked for.
        calibration_count, test_count: samples of the validation and of the test split.
        curve: every threshold that was tried, the strictest first.
        kept_frac, agreement_frac, low_frac: the chosen threshold's, on validation; see
            `RoutedShare`.
        test_kept_frac, test_agreement_frac: the same on the test split, which chose nothing.
    """

    threshold: float | None
    why: str
    agreement: float
    confidence: float
    calibration_count: int
    test_count: int
    curve: tuple[RoutedShare, ...]
    kept_frac: float | None = None
    agreement_frac: float | None = None
    low_frac: float | None = None
    test_kept_frac: float | None = None
    test_agreement_frac: float | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {**asdict(self), "curve": [asdict(each) for each in self.curve]}


Floats = NDArray[np.float64]


Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Decisions:
    """What was decided on a split, by sample.

    Attributes:
        probability: the largest one the device gives (0-1).
        agrees: whether its class is the teacher's.
    """

    probability: Floats
    agrees: Flags


def lower_bound(agreeing: int, count: int, error: float) -> float:
    """The least share that `agreeing` of `count` leave open: with probability 1 - `error` the true
    one is not under it.

    Source: Clopper, Pearson 1934.
    """
    if agreeing == 0:
        return 0.0
    low, high = 0.0, agreeing / count
    for _ in range(50):
        middle = (low + high) / 2
        # P(X >= agreeing) of a binomial, small where the true share is far under what was seen.
        chance = 1.0 - float(binomial_cdf(count, middle)[agreeing - 1])
        low, high = (middle, high) if chance < error else (low, middle)
    return low


def curve_of(decisions: Decisions, confidence: float) -> tuple[RoutedShare, ...]:
    """What each of `SHARES` thresholds keeps, the strictest first.

    The thresholds are ranks of the probabilities, so given a threshold the samples over it are
    drawn alike from those to come that are over it.
    """
    count = len(decisions.probability)
    ordered = np.sort(decisions.probability)[::-1]
    made = []
    for part in range(1, SHARES + 1):
        rank = math.floor(count * part / SHARES)
        threshold = float(ordered[rank]) if rank < count else 0.0
        over = decisions.probability > threshold
        kept, agreeing = int(over.sum()), int((over & decisions.agrees).sum())
        if kept:
            low = lower_bound(agreeing, kept, (1 - confidence) / SHARES)
            made.append(RoutedShare(threshold, kept / count, agreeing / kept, low))
    return tuple(made)


def calibrate_route(validation: Decisions, test: Decisions, route: Route) -> Routing:
    """The threshold that keeps most of what keeps the promise of `route`, and how it did.

    Raises:
        ValueError: a split has no sample.
    """
    if not len(validation.probability) or not len(test.probability):
        raise ValueError("a threshold needs samples to be calibrated on and to be tried on")
    curve = curve_of(validation, route.confidence)
    holding = [kept for kept in curve if kept.low_frac >= route.agreement]
    best = max(holding, key=lambda kept: kept.kept_frac, default=None)
    nothing = Routing(
        threshold=None,
        why=_nothing(curve, route),
        agreement=route.agreement,
        confidence=route.confidence,
        calibration_count=len(validation.probability),
        test_count=len(test.probability),
        curve=curve,
    )
    if best is None:
        return nothing
    over = test.probability > best.threshold
    why = (
        f"with {route.confidence:.0%} confidence at least {route.agreement:.1%} of what is over "
        f"{best.threshold:.4g} agrees with the teacher; that is {best.kept_frac:.1%} of the samples"
    )
    return replace(
        nothing,
        threshold=best.threshold,
        why=why,
        kept_frac=best.kept_frac,
        agreement_frac=best.agreement_frac,
        low_frac=best.low_frac,
        test_kept_frac=float(over.mean()),
        test_agreement_frac=float(test.agrees[over].mean()) if over.any() else None,
    )


def _nothing(curve: tuple[RoutedShare, ...], route: Route) -> str:
    nearest = max(curve, key=lambda kept: kept.low_frac)
    error = (1 - route.confidence) / SHARES
    least = math.ceil(math.log(error) / math.log(route.agreement))
    return (
        f"no threshold can promise {route.agreement:.1%}: the strictest bound is "
        f"{nearest.low_frac:.2%}, of {nearest.kept_frac:.0%} of the samples; it takes at least "
        f"{least} that are kept and all agree"
    )
