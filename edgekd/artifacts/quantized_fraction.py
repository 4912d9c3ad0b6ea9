"""The share of a file's weights that is quantized, as facts for its card and its row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.artifacts.graph import Graph
from edgekd.artifacts.weights import Stored
from edgekd.errors import ConversionError, Fault, listed

BITS = {"int8": 8, "int4": 4, "palettized": 8}
"""By the first word of a scheme that quantizes weights, the bits of one, at most."""


LITTLE = 0.5
"""Of the weights: what quantizes less is told of."""


def quantized_facts(graph: Graph, stored: Stored | None, scheme: str) -> dict[str, Any]:
    """How much of a file of an int8, int4 or palettized scheme is, for its card; empty for others.

    `quantized_weights_frac` is the share of the weights that take no more bits than the scheme
    says, `weights_in_float` names the operators that read others.

    Raises:
        ConversionError: nothing is quantized: quantizers skip what they do not know, and what is
            small, and say nothing.
    """
    bits = scheme.partition("-")[0]
    if bits not in BITS or stored is None:
        return {}
    share = stored.frac(BITS[bits])
    if share or any(bits in kind for each in graph.kinds for kind in each.takes):
        return {"quantized_weights_frac": share, "weights_in_float": stored.in_float}
    raise ConversionError(
        Fault(
            what=f"Nothing in the network was quantized in {scheme}.",
            at=f"{graph.format} {scheme}",
            got=f"operators in float: {listed(list(graph.operators)[:6])}",
            expected="an operator or weight that this format quantizes in this scheme",
            fix=f"leave {scheme} out for this target, or take another scheme",
        )
    )


def little_quantized(lineage: Mapping[str, Any], scheme: str) -> str | None:
    """A sentence on a file of which the smaller part of the weights is quantized, by its card."""
    share = lineage.get("quantized_weights_frac")
    if share is None or share >= LITTLE:
        return None
    how = scheme.partition("-")[0]
    how = how if how == "palettized" else f"in {how}"
    told = f"{scheme}: {100 * share:.2g} % of the weights are {how}"
    kept = lineage["weights_in_float"]
    return (
        f"{told}; {listed(kept)} {'stays' if len(kept) == 1 else 'stay'} in float" if kept else told
    )
