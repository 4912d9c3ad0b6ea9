"""The outcome of a target, which is that of its farthest candidate, and how to fix it."""

from __future__ import annotations

from collections.abc import Sequence

from edgekd.evidence.candidate import Candidate
from edgekd.evidence.outcome import Outcome

NOT_JUDGED = (Outcome.UNAVAILABLE, Outcome.REFUSED, Outcome.UNDECIDED)
"""Outcomes that do not fail a run if the target is optional: not judged."""

FIXES = {
    Outcome.UNDECIDED: "measure on the device itself, on an idle machine, or widen the budget",
    Outcome.OVER_BUDGET: "widen the budget, or make the student smaller",
    Outcome.FELL_BACK: "use a runtime with the requested accelerator, or request another",
    Outcome.DISAGREES: "train longer, try another scheme, or widen [accept]",
    Outcome.RUN_FAILED: "run the artifact in its runtime by hand, or try another scheme",
    Outcome.LOAD_FAILED: "load the artifact in its runtime by hand, or try another scheme",
    Outcome.CONVERT_FAILED: "read the converter's output in log.txt, or try another format",
    Outcome.UNAVAILABLE: "give the target a device that can run it, or set required = false",
    Outcome.REFUSED: "add a scheme that the target supports: edgekd targets NAME",
}

_ORDER = list(FIXES)
"""Outcomes from the farthest a candidate can get to the nearest."""


def farthest(rows: Sequence[Candidate]) -> Candidate | None:
    """The candidate that got farthest, whose outcome is the target's; None if one passed."""
    if any(candidate.outcome in (Outcome.PASSED, None) for candidate in rows):
        return None
    return min(rows, key=lambda candidate: _ORDER.index(candidate.outcome or Outcome.REFUSED))
