"""The methods by which a format quantizes a network in a scheme."""

from __future__ import annotations

from collections.abc import Mapping

from edgekd.artifacts.scheme import SCHEMES
from edgekd.formats.capabilities import member
from edgekd.formats.method_ranking import ranked_methods
from edgekd.network.architecture import architecture_of
from edgekd.network.network import Network


def methods_of(format: str, scheme: str) -> Mapping[str, str]:
    """The methods of `format` for `scheme`, by name, each with a description; empty where there is
    one way alone."""
    methods: Mapping[str, str] = member(format, "METHODS", {}).get(scheme, {})
    return methods


def suited_method(network: Network, format: str, scheme: str) -> str | None:
    """The first method that suits `network`; None where there is no choice."""
    methods = methods_of(format, scheme)
    if len(methods) < 2:
        return next(iter(methods), None)
    return ranked_methods(format, scheme, architecture_of(network), methods)[0]


def uses_samples(format: str, scheme: str, method: str | None) -> bool:
    """Whether a file is written with calibration samples."""
    return SCHEMES[scheme].calibrated or method in member(format, "SAMPLED_METHODS", ())
