"""Whether a file computes what its network's QAT simulation computes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from edgekd.evidence.sqnr import sqnr_db

MOST_DB = 200.0
"""The SQNR that is recorded for equal outputs; float32 is exact to 144 dB."""


def mismatch(
    outputs: Mapping[str, Tensor], simulated: Mapping[str, Tensor], real: Mapping[str, Tensor]
) -> tuple[float, str | None]:
    """The SQNR in dB of a file against its simulation, and why that is too low, or None.

    The error of an int8 file against its float network is that of rounding. A simulation that
    rounds alike makes the same error, so the file is nearer to it than to the float network by as
    much as the simulation explains: by 3 dB where that is half of the error's power. A simulation
    that rounds as much, but elsewhere, is 3 dB farther from the file than the float network is, and
    a file that rounds nothing is the float network. The bound is between: nearer to the simulation
    than to the float network.

    Args:
        outputs: the file's outputs.
        simulated: the simulation's outputs.
        real: the outputs of the same network in float.
    """
    near_db, far_db = capped_sqnr_db(simulated, outputs), capped_sqnr_db(real, outputs)
    if near_db > far_db or near_db == MOST_DB:
        return near_db, None
    return near_db, (
        f"it does not round as its QAT simulation does: SQNR is {near_db:.1f} dB against the "
        f"simulation and {far_db:.1f} dB against the float network"
    )


def capped_sqnr_db(reference: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> float:
    """The SQNR in dB over all outputs of real numbers, between -MOST_DB and MOST_DB."""
    floats = {name: value for name, value in reference.items() if value.is_floating_point()}
    return max(-MOST_DB, min(MOST_DB, sqnr_db(floats, outputs)))
