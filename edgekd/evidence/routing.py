"""The model cascade: which answers the device keeps, and which it defers to a larger model.

The device keeps an answer if its largest probability is over a threshold. The threshold is
calibrated on the validation split, so that at least a stated share of the kept answers agrees with
the teacher, with a stated confidence. The bound is exact for independent and identically
distributed samples, makes no assumption on the network, and holds for all thresholds together.

Source: Geifman, El-Yaniv 2017, Selective Classification for Deep Neural Networks,
arXiv:1705.08500, section 3; Angelopoulos et al. 2021, Learn then Test, arXiv:2110.01052, section 2
(one test per threshold, corrected by Bonferroni); Clopper, Pearson 1934,
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
"""The file beside an agreement with the decision on each sample, for classification outputs."""


SHARES = 20
"""The number of thresholds: one per twentieth of the validation split."""


@dataclass(frozen=True)
class RoutedShare:
    """What a threshold keeps of the samples that it was calibrated on.

    Attributes:
        threshold: answers whose largest probability is over it are kept; 0 keeps all.
        kept_frac: the share of kept samples.
        agreement_frac: the share of the kept samples that agrees with the teacher.
        low_frac: the lower confidence bound of `agreement_frac`, valid for all thresholds together.
    """

    threshold: float
    kept_frac: float
    agreement_frac: float
    low_frac: float


@dataclass(frozen=True)
class Routing:
    """A threshold, its guarantee, and how it did on the test split.

    Attributes:
        threshold: None if no threshold gives the guarantee.
        why: a sentence with the guarantee, or with the reason why there is none.
        agreement, confidence: the requested guarantee.
        calibration_count, test_count: the number of validation and of test samples.
        curve: every threshold tried, the strictest first.
        kept_frac, agreement_frac, low_frac: the chosen threshold's, on validation; see
            `RoutedShare`.
        test_kept_frac, test_agreement_frac: the same on the test split, which is only reported.
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
    """The decisions on the samples of a split.

    Attributes:
        probability: the largest class probability on the device (0-1).
        agrees: whether the predicted class is the teacher's.
    """

    probability: Floats
    agrees: Flags


def lower_bound(agreeing: int, count: int, error: float) -> float:
    """The lower confidence bound of a share, if `agreeing` of `count` samples agree.

    It is over the true share with probability `error` at most.

    Source: Clopper, Pearson 1934.
    """
    if agreeing == 0:
        return 0.0
    low, high = 0.0, agreeing / count
    for _ in range(50):
        middle = (low + high) / 2
        # P(X >= agreeing) of a binomial; small if the true share is far under the observed one.
        chance = 1.0 - float(binomial_cdf(count, middle)[agreeing - 1])
        low, high = (middle, high) if chance < error else (low, middle)
    return low


def curve_of(decisions: Decisions, confidence: float) -> tuple[RoutedShare, ...]:
    """What each of `SHARES` thresholds keeps, the strictest first.

    Thresholds are order statistics of the probabilities. So, given a threshold, the samples over it
    have the same distribution as future samples over it.
    """
    count = len(decisions.probability)
    ordered = np.sort(decisions.probability)[::-1]
    curve = []
    for part in range(1, SHARES + 1):
        rank = math.floor(count * part / SHARES)
        threshold = float(ordered[rank]) if rank < count else 0.0
        over = decisions.probability > threshold
        kept, agreeing = int(over.sum()), int((over & decisions.agrees).sum())
        if kept:
            low = lower_bound(agreeing, kept, (1 - confidence) / SHARES)
            curve.append(RoutedShare(threshold, kept / count, agreeing / kept, low))
    return tuple(curve)


def calibrate_route(validation: Decisions, test: Decisions, route: Route) -> Routing:
    """The threshold that keeps most samples among those with the guarantee that `route` asks for.

    Raises:
        ValueError: a split has no sample.
    """
    if not len(validation.probability) or not len(test.probability):
        raise ValueError("a threshold needs validation samples and test samples")
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
        f"with {route.confidence:.0%} confidence, at least {route.agreement:.1%} of the answers "
        f"over {best.threshold:.4g} agree with the teacher; that is {best.kept_frac:.1%} of all"
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
        f"no threshold guarantees {route.agreement:.1%} agreement: the best lower bound is "
        f"{nearest.low_frac:.2%}, for {nearest.kept_frac:.0%} of the samples; the guarantee needs "
        f"at least {least} kept samples that all agree"
    )
