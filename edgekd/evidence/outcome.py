"""The outcomes of a candidate, and the exit code of each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Outcome(str, Enum):
    """How a candidate ended. Only `PASSED` can ship."""

    PASSED = "passed"
    OVER_BUDGET = "over-budget"
    DISAGREES = "disagrees"
    UNDECIDED = "undecided"
    FELL_BACK = "fell-back"
    CONVERT_FAILED = "convert-failed"
    LOAD_FAILED = "load-failed"
    RUN_FAILED = "run-failed"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"

    @property
    def exit_code(self) -> int:
        """The exit code of a run that fails with this outcome."""
        return _EXIT_CODES[self]


# From the farthest a candidate can get to the nearest.
_EXIT_CODES = {
    Outcome.PASSED: 0,
    Outcome.UNDECIDED: 9,
    Outcome.OVER_BUDGET: 8,
    Outcome.FELL_BACK: 7,
    Outcome.DISAGREES: 7,
    Outcome.RUN_FAILED: 5,
    Outcome.LOAD_FAILED: 5,
    Outcome.CONVERT_FAILED: 5,
    Outcome.UNAVAILABLE: 6,
    Outcome.REFUSED: 3,
}


@dataclass(frozen=True)
class Verdict:
    """An outcome and a sentence with its reason; the sentence is empty if it passed."""

    outcome: Outcome
    detail: str
