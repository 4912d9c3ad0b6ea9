"""Retry a job whose connection broke."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edgekd.errors import Fault, UnreachableError
from edgekd.system.process import pause

TRIES = 3
WAIT_S = 2.0
"""Pause before each retry."""


class ConnectionLostError(Exception):
    """The connection broke; the job may be retried over a new one."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


def retry(attempt: Callable[[], None], *, tries: int = TRIES) -> None:
    """Call `attempt`, and again if its connection broke, at most `tries` times.

    A job is one process of a measurement, so earlier processes keep their samples.

    Raises:
        UnreachableError: the connection broke every time.
    """
    for number in range(1, tries + 1):
        try:
            attempt()
        except ConnectionLostError as error:
            if number == tries:
                got = f"{error.fault.got} ({tries} times)"
                raise UnreachableError(replace(error.fault, got=got)) from error
            pause(WAIT_S)
        else:
            return
