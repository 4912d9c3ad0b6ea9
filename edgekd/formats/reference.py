"""What a format's reference evaluator is, which stands in where a device lacks the runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from edgekd.errors import listed

if TYPE_CHECKING:
    from torch import Tensor


class UnknownOperatorError(Exception):
    """A file has operators that the reference evaluator does not compute.

    Attributes:
        operators: their names.
    """

    def __init__(self, operators: list[str]) -> None:
        super().__init__(f"the reference evaluator has no operator {listed(operators)}")
        self.operators = operators


class Reference(Protocol):
    """A reference evaluator of one file.

    Attributes:
        inputs: the data type of each input, as numpy names it.
        half: whether it computes in float16.
        operators: the number of operators of each type.
    """

    @property
    def inputs(self) -> Mapping[str, str]: ...
    @property
    def half(self) -> bool: ...
    @property
    def operators(self) -> Mapping[str, int]: ...

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs by name, of a batch of the file's size."""
