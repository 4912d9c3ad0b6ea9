"""The inputs and outputs of a network: names, shapes, data types, meanings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class DynamicDim:
    """A dynamic dimension: a size that may change between calls, such as the number of tokens.

    Attributes:
        least, most: the range of sizes that a file must take, both included.
        axes: by input, the axis that has this size.
    """

    name: str
    least: int
    most: int
    axes: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {**asdict(self), "axes": dict(self.axes)}


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor.

    Attributes:
        name: the name in the network; every artifact uses it too.
        shape: batch first; None for a dynamic dimension.
        dtype: numpy's name, such as "float32" or "int64".
        layout: axes as words, such as "batch channels height width"; None if not stated.
        meaning: what the values are, such as "logits"; None if not stated.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    layout: str | None = None
    meaning: str | None = None


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a network, in the order its `forward` takes and gives them."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def input_names(self) -> list[str]:
        """The inputs' names, in order."""
        return [spec.name for spec in self.inputs]

    @property
    def output_names(self) -> list[str]:
        """The outputs' names, in order."""
        return [spec.name for spec in self.outputs]

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Signature:
        """The signature that `to_json` wrote."""

        def spec(entry: dict[str, Any]) -> TensorSpec:
            return TensorSpec(**{**entry, "shape": tuple(entry["shape"])})

        return cls(
            inputs=tuple(spec(entry) for entry in document["inputs"]),
            outputs=tuple(spec(entry) for entry in document["outputs"]),
        )
