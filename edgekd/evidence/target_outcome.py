"""How a target ended: by its farthest candidate, and what mends that."""

from __future__ import annotations

from collections.abc import Sequence

from edgekd.evidence.candidate import Candidate
from edgekd.evidence.outcome import Outcome

NOT_JUDGED = (Outcome.UNAVAILABLE, Outcome.REFUSED, Outcome.UNDECIDED)
"""What a target that is not required may end as: it could not be judged here."""

FIXES = {
    Outcome.UNDECIDED: "measure on the device itself, on a quieter machine, or widen the budget",
    Outcome.OVER_BUDGET: "widen the budget, or make the student smaller",
    Outcome.FELL_BACK: "use a runtime that has what was asked for, or ask for less",
    Outcome.DISAGREES: "train longer, try another scheme, or widen [accept]",
    Outcome.RUN_FAILED: "run the artifact in its runtime by hand; another scheme may do",
    Outcome.LOAD_FAILED: "load the artifact in its runtime by hand; another scheme may do",
    Outcome.CONVERT_FAILED: "look into the log beside the artifact; another format may do",
    Outcome.UNAVAILABLE: "give the target a device that can run it, or set required = false",
    Outcome.REFUSED: "add a scheme that the target takes: edgekd targets NAME",
}

_PROGRESS = list(FIXES)
"""How far a candidate got, the farthest first: a target ends as its farthest candidate."""


def farthest(rows: Sequence[Candidate]) -> Candidate | None:
    """The candidate that got farthest, which says how its target ended."""
    if any(candidate.outcome in (Outcome.PASSED, None) for candidate in rows):
        return None
    return min(rows, key=lambda candidate: _PROGRESS.index(candidate.outcome or Outcome.REFUSED))
