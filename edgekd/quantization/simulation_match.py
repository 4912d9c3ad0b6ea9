"""Whether a file rounds as its network was trained to be rounded."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

MOST_DB = 200.0
"""Of outputs that are equal; float32 is exact to 144 dB."""


def mismatch(
    found: Mapping[str, Tensor], simulated: Mapping[str, Tensor], real: Mapping[str, Tensor]
) -> tuple[float, str | None]:
    """How near a file is to its simulation, in dB, and why that is not near enough, if so.

    The error of an int8 file against its network in float is that of rounding. A simulation that
    rounds alike makes the same error, and the file is nearer to it than to the float network by as
    much as the simulation explains: by 3 dB where that is half of the error's power. One that
    rounds as much, but elsewhere, is 3 dB farther from the file than the float network is; and a
    file that rounds nothing is the float network. The bound is between the two: nearer to the
    simulation than to the float network.

    Args:
        found: the file's outputs.
        simulated: those of the simulation.
        real: those of the same network in float.
    """
    near_db, far_db = sqnr_db(simulated, found), sqnr_db(real, found)
    if near_db > far_db or near_db == MOST_DB:
        return near_db, None
    return near_db, (
        f"it does not round as it was trained to: SQNR is {near_db:.1f} dB against its simulation "
        f"and {far_db:.1f} dB against its network in float"
    )


def sqnr_db(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """10 log10(sum wanted^2 / sum error^2) over all outputs of real numbers."""
    signal = noise = 0.0
    for name, value in wanted.items():
        if value.is_floating_point():
            ours, theirs = value.detach().double(), found[name].detach().double()
            signal += float((ours**2).sum())
            noise += float(((ours - theirs) ** 2).sum())
    if not math.isfinite(noise) or signal == 0:
        return -MOST_DB
    return min(MOST_DB, 10 * math.log10(signal / noise)) if noise else MOST_DB
