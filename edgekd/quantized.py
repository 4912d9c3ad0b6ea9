"""The ways a format has to quantize a network, and whether a file that was quantized is."""

from __future__ import annotations

from edgekd.errors import ConversionError, Fault, listed
from edgekd.formats import find_format
from edgekd.graph import Graph
from edgekd.kinds import kind_of
from edgekd.network import Network
from edgekd.quantization import candidates
from edgekd.scheme import SCHEMES


def methods_of(format: str, scheme: str) -> dict[str, str]:
    """The methods of `format` for `scheme`, by name, each with how; empty where there is no choice.

    A third party's format may have none.
    """
    found: dict[str, str] = getattr(find_format(format), "METHODS", {}).get(scheme, {})
    return found


def suited(network: Network, format: str, scheme: str) -> str | None:
    """The first method that suits `network`; None where there is no choice."""
    methods = methods_of(format, scheme)
    if len(methods) < 2:
        return next(iter(methods), None)
    return candidates(format, scheme, kind_of(network), methods)[0]


ON_SAMPLES = ("scale-estimation", "awq", "gptq")
"""Methods that take samples though their scheme needs none."""


def uses_samples(scheme: str, method: str | None) -> bool:
    """Whether calibration samples are used to write a file so."""
    return SCHEMES[scheme].calibrated or method in ON_SAMPLES


def check_quantized(graph: Graph, scheme: str) -> None:
    """Raises where a file of an int8 or int4 scheme has nothing in it: quantizers skip what they do
    not know, and say nothing. Core ML keeps small tensors in float by a threshold of its own.

    Raises:
        ConversionError: nothing is quantized.
    """
    bits = scheme.partition("-")[0]
    if bits not in ("int8", "int4") or graph.format == "coreml":
        return
    if any(bits in kind for each in graph.kinds for kind in each.takes):
        return
    if bits == "int4" and any(each.operator == "MatMulNBits" for each in graph.kinds):
        return
    raise ConversionError(
        Fault(
            what=f"Nothing in the network was quantized in {scheme}.",
            at=f"{graph.format} {scheme}",
            got=f"operators in float: {listed(list(graph.operators)[:6])}",
            expected="an operator or weight that this format quantizes in this scheme",
            fix=f"leave {scheme} out for this target, or take another scheme",
        )
    )
