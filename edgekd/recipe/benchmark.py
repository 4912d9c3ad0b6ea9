"""How much is measured: the thorough protocol, a quick one, and the recipe's word for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from edgekd.recipe.table import Part

LOOKS = 3
"""At the samples, at most: after each the budget is decided or more are taken."""


@dataclass(frozen=True)
class Protocol:
    """How much is measured.

    Attributes:
        name: what the report calls it.
        processes: fresh ones, since a process's memory layout moves its times.
        runs: recorded inferences of each artifact in a process, at least.
        seconds: steady time of each artifact in a process, at least.
        block: recorded inferences before another artifact's turn.
        turn_s: least time of a turn; what is over its block is computed and not recorded.
        limit_s: most steady time of each artifact in a process, also with fewer runs.
        warm_up_s: least time of warming up; `warm_up_limit_s` is the most.
        cool_s: how long a device that is too hot is waited for.
    """

    name: str = "own"
    processes: int = 3
    runs: int = 67
    seconds: float = 3.4
    block: int = 20
    turn_s: float = 0.0034
    limit_s: float = 80.0
    warm_up_s: float = 1.0
    warm_up_limit_s: float = 10.0
    cool_s: float = 300.0


THOROUGH = Protocol(name="thorough")
"""200 samples and 10 s at least, over 3 processes; `turn_s` keeps it under 60,000 samples.

Differs from MLPerf's 1,024 samples in that the verdict's interval says when there are too few.
`cool_s` is that of the MLPerf mobile app.
"""
QUICK = Protocol(
    name="quick", processes=1, runs=200, seconds=0.2, turn_s=0.0, warm_up_s=0.05, cool_s=0.0
)
"""A first impression: one process has one memory layout, and a fifth of a second no slow noise."""

PROTOCOLS = {protocol.name: protocol for protocol in (THOROUGH, QUICK)}


class Benchmark(Part):
    """How candidates are timed."""

    protocol: Annotated[
        Literal["thorough", "quick"],
        Field(
            description="200 samples and 10 s of each candidate, over 3 processes; or a first "
            "impression, which says that it is one"
        ),
    ] = "thorough"


assert set(PROTOCOLS) == {"thorough", "quick"}
