"""The benchmark protocols, and the `[benchmark]` table of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from edgekd.recipe.table import Table

LOOKS = 3
"""How often the samples are examined at most; more are taken while the budget is undecided."""


@dataclass(frozen=True)
class Protocol:
    """How long and how often artifacts are measured.

    Attributes:
        name: the name in the report.
        processes: number of fresh processes; the memory layout of a process shifts its latency.
        runs: smallest number of recorded inferences per artifact and process.
        seconds: shortest steady-state time per artifact and process.
        block: number of recorded inferences before the next artifact's turn.
        turn_s: shortest time of a turn; inferences after its block are not recorded.
        limit_s: longest steady-state time per artifact and process, even with fewer runs.
        warm_up_s: shortest warm-up; `warm_up_limit_s` is the longest.
        cool_s: how long to wait for a device that is too hot.
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
"""At least 200 samples and 10 s over 3 processes; `turn_s` keeps it under 60,000 samples.

MLPerf takes 1,024 samples; here the confidence interval shows when there are too few.
`cool_s` is that of the MLPerf mobile app.
"""
QUICK = Protocol(
    name="quick", processes=1, runs=200, seconds=0.2, turn_s=0.0, warm_up_s=0.05, cool_s=0.0
)
"""A first impression: one process has one memory layout, and 0.2 s misses slow noise."""

PROTOCOLS = {protocol.name: protocol for protocol in (THOROUGH, QUICK)}


class Benchmark(Table):
    """How the latency of candidates is measured."""

    protocol: Annotated[
        Literal["thorough", "quick"],
        Field(
            description="thorough: at least 200 samples and 10 s per candidate over 3 "
            "processes. quick: one short process, marked as a first impression in "
            "the report."
        ),
    ] = "thorough"


assert set(PROTOCOLS) == {"thorough", "quick"}
