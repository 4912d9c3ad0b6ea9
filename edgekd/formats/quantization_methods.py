"""The ways a format has to quantize a network, and whether a file that was quantized is."""

from __future__ import annotations

from edgekd.artifacts.scheme import SCHEMES
from edgekd.formats import find_format
from edgekd.formats.method_ranking import ranked_methods
from edgekd.network.architecture import architecture_of
from edgekd.network.network import Network


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
    return ranked_methods(format, scheme, architecture_of(network), methods)[0]


ON_SAMPLES = ("scale-estimation", "awq", "gptq")
"""Methods that take samples though their scheme needs none."""


def uses_samples(scheme: str, method: str | None) -> bool:
    """Whether calibration samples are used to write a file so."""
    return SCHEMES[scheme].calibrated or method in ON_SAMPLES
