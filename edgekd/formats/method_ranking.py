"""Ranks the quantization methods of a format for a network, the best first.

No method wins everywhere. Each format's `RANKING` was measured on fourteen networks and four
runtimes (docs/quantization.md): all operators in int8 are fastest and cost attention 25 dB,
averaged ranges lose up to 19 dB on convolutional classifiers and gain 2 on U-Nets, dynamic int8 is
2 to 3 times as fast on matrix products and five times as slow on depthwise convolutions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from edgekd.formats.capabilities import member
from edgekd.network.architecture import Architecture


def ranked_methods(
    format: str, scheme: str, kind: Architecture, methods: Collection[str]
) -> tuple[str, ...]:
    """The methods to try on a network of the architecture `kind`, the best first.

    Args:
        methods: the methods that the format has; the ranking is reduced to these.
    """
    by_kind = member(format, "RANKING", {}).get(scheme)
    ranked = by_kind[kind.family] if by_kind else tuple(methods)
    # Where all weights are large, or all small, it gives the file of "weights", or of no scheme.
    useless = () if kind.uneven else ("large-weights",)
    return tuple(name for name in ranked if name in methods and name not in useless)


def fallback_methods(
    format: str, scheme: str, tried: Collection[str], methods: Collection[str]
) -> tuple[str, ...]:
    """The methods left to try for a scheme whose candidates missed what is accepted, in order:
    other ranges first, then corrections and roundings that cost more."""
    order = member(format, "FALLBACKS", {}).get(scheme, tuple(methods))
    return tuple(name for name in order if name in methods and name not in tried)


def share_trials(by_scheme: Mapping[str, Sequence[str]], count: int) -> dict[str, list[str]]:
    """The first method of every scheme, then the second and so on, at most `count` in all."""
    shares: dict[str, list[str]] = {scheme: [] for scheme in by_scheme}
    most = max(map(len, by_scheme.values()), default=0)
    for turn in range(most):
        for scheme, names in by_scheme.items():
            if turn < len(names) and (turn == 0 or sum(map(len, shares.values())) < count):
                shares[scheme].append(names[turn])
    return shares


DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "asimddp", "i8mm", "amx_int8")
"""Instructions that add products of 8 bits in 32: 8-bit weights do not saturate."""


def needs_reduced_range(instructions: Collection[str] | None) -> bool:
    """Whether int8 weights must leave one bit unused on a processor with these instructions, None
    where they are unknown.

    x86 without VNNI adds two products of 8 bits in 16 and saturates: on an AVX2 machine 8-bit
    weights lost 1 to 14 dB against 7 bits, which are safe on every processor.
    """
    return not set(instructions or ()).intersection(DOT_PRODUCTS)
