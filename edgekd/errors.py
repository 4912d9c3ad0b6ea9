"""The errors of edgekd: one class per exit code, each message in five parts.

<what could not be done, one sentence>
  at:       <file:key, stage, target, tensor>
  got:      <the value>
  expected: <the rule or the allowed values>
  fix:      <one command or edit that works>
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters except tab and line feed, halves of surrogate pairs, which no terminal shows,
and characters that reverse the direction of text."""


def printable(text: str) -> str:
    """`text` with each character that would control a terminal as its escape, such as `\\x1b`.

    Texts of boards and of other people's files pass it before they are printed.
    """
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


@dataclass(frozen=True)
class Fault:
    """One problem, described in the five parts of an edgekd message."""

    what: str
    at: str
    got: str
    expected: str
    fix: str

    def __str__(self) -> str:
        return printable(
            f"{self.what}\n  at:       {self.at}\n  got:      {self.got}\n"
            f"  expected: {self.expected}\n  fix:      {self.fix}"
        )


class EdgekdError(Exception):
    """An error with an exit code and one or more faults; a cause is chained."""

    exit_code: ClassVar[int] = 1

    def __init__(self, *faults: Fault) -> None:
        if not faults:
            raise ValueError("an EdgekdError has at least one fault")
        self.faults = faults
        super().__init__("\n\n".join(str(fault) for fault in faults))


class InternalError(EdgekdError):
    """A bug in edgekd."""

    exit_code = 1


class RecipeError(EdgekdError):
    """The recipe, the arguments or something that they name is wrong."""

    exit_code = 2


class RefusedError(EdgekdError):
    """A target does not support what the recipe requests."""

    exit_code = 3


class MissingPackageError(EdgekdError):
    """An optional package is not installed."""

    exit_code = 4


class ConversionError(EdgekdError):
    """A converter failed, or wrote a file that its own runtime cannot load."""

    exit_code = 5


class UnreachableError(EdgekdError):
    """A device is unreachable, or has no runtime for the artifact."""

    exit_code = 6


class DisagreementError(EdgekdError):
    """An artifact disagrees with its network, or its metric does not meet `[accept]`."""

    exit_code = 7


class BudgetMissedError(EdgekdError):
    """A budget is missed."""

    exit_code = 8


class BudgetUndecidedError(EdgekdError):
    """The measurement does not decide a budget."""

    exit_code = 9


ERRORS: dict[int, type[EdgekdError]] = {
    error.exit_code: error
    for error in (
        InternalError,
        RecipeError,
        RefusedError,
        MissingPackageError,
        ConversionError,
        UnreachableError,
        DisagreementError,
        BudgetMissedError,
        BudgetUndecidedError,
    )
}


def listed(names: Iterable[str]) -> str:
    """`names` as a phrase: "a, b or c"; "nothing" without names."""
    known = list(names) or ["nothing"]
    return known[0] if len(known) == 1 else f"{', '.join(known[:-1])} or {known[-1]}"


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The entry of `known` that `name` was probably meant to be; None if no entry is close."""
    matches = get_close_matches(name, known, n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(kind: str, name: str, known: Iterable[str], at: str) -> Fault:
    """The fault of a name that does not exist, with the nearest name that does.

    Args:
        kind: what the name stands for, such as "loss".
        at: the recipe's key, or the argument.
    """
    names = sorted(known)
    close = nearest(name, names)
    return Fault(
        what=f"There is no {kind} {name!r}.",
        at=at,
        got=repr(name),
        expected=f"one of {listed(names)}",
        fix=f"did you mean {close!r}?" if close else "use one of these names",
    )
