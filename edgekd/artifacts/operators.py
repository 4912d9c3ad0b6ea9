"""The roles that operators play in a file, whatever its format calls them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OperatorRoles:
    """A format's names of the operators that edgekd looks for in a file.

    Attributes:
        transposes: operators that only reorder elements.
        reshapes: operators that only change the shape.
        gates: the activation of a recurrent cell's gates, and that of its candidate. A step of a
            GRU has two of the first and one of the second, a step of an LSTM three and two, less
            the gate of an empty state in the first step
            (pytorch.org/docs/stable/generated/torch.nn.GRU.html and LSTM.html).
        products: matrix products.
        weighted: operators whose constants are most of what a network has learned.
        after_weights: operators between a weight as it is stored and the operator that reads it.
        unrolled_source: evidence of what an unrolled recurrent layer costs in this format.
    """

    transposes: tuple[str, ...] = ()
    reshapes: tuple[str, ...] = ()
    gates: tuple[str, str] | None = None
    products: tuple[str, ...] = ()
    weighted: frozenset[str] = frozenset()
    after_weights: frozenset[str] = frozenset()
    unrolled_source: str = "the operators in the file"


MIN_UNROLLED_STEPS = 4
"""The fewest candidate activations that count as a recurrent layer that was unrolled."""
