"""A connection that broke while a job went on, and the job's being done again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edgekd.errors import Fault, UnreachableError
from edgekd.system.process import pause

TRIES = 3
WAIT_S = 2.0
"""Before a try that follows the first."""


class Dropped(Exception):
    """The connection broke; the job may be tried again over another one."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


def persistently(attempt: Callable[[], None], *, tries: int = TRIES) -> None:
    """Does `attempt`, again where its connection broke, `tries` times at most.

    A job is one process of a measurement: those that had ended before keep what they measured.

    Raises:
        UnreachableError: it broke every time.
    """
    for number in range(1, tries + 1):
        try:
            attempt()
        except Dropped as error:
            if number == tries:
                got = f"{error.fault.got} ({tries} times)"
                raise UnreachableError(replace(error.fault, got=got)) from error
            pause(WAIT_S)
        else:
            return
