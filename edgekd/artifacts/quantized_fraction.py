"""The share of a file's weights that is quantized, for its card and its row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.artifacts.graph import Graph
from edgekd.artifacts.weights import StoredWeights
from edgekd.errors import ConversionError, Fault, listed

BITS = {"int8": 8, "int4": 4, "palettized": 8}
"""The most bits of a quantized weight, by the first part of a scheme's name."""


LITTLE = 0.5
"""Share of the weights: a file with a smaller quantized share gets a note."""


def quantized_facts(graph: Graph, stored: StoredWeights | None, scheme: str) -> dict[str, Any]:
    """How much of a file in an int8, int4 or palettized scheme is quantized; empty for others.

    `quantized_weights_frac` is the share of the weights that have at most the scheme's bits,
    `weights_in_float` names the operators that read the others.

    Raises:
        ConversionError: nothing is quantized: quantizers silently skip operators that they do not
            know, and small ones.
    """
    bits = scheme.partition("-")[0]
    if bits not in BITS or stored is None:
        return {}
    share = stored.frac(BITS[bits])
    if share or any(bits in dtype for kind in graph.kinds for dtype in kind.takes):
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
    """A sentence if less than half of a file's weights are quantized, by its card; else None."""
    share = lineage.get("quantized_weights_frac")
    if share is None or share >= LITTLE:
        return None
    precision = scheme.partition("-")[0]
    precision = precision if precision == "palettized" else f"in {precision}"
    sentence = f"{scheme}: {100 * share:.2g} % of the weights are {precision}"
    kept = lineage["weights_in_float"]
    if not kept:
        return sentence
    return f"{sentence}; {listed(kept)} {'stays' if len(kept) == 1 else 'stay'} in float"
