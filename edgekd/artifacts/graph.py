"""The operators of a saved file, read from the file itself, in any format.

No runtime loads the file and no weight is read: the graph is what the converter wrote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgekd.artifacts.operators import MIN_UNROLLED_STEPS, OperatorRoles

CONST = "const "
"""Prefix of the element type of an input whose value is stored in the file."""


@dataclass(frozen=True)
class OperatorKind:
    """Operators of one type with the same element types of inputs and outputs.

    Attributes:
        operator: the type, as the format calls it; of a custom operator, its own name.
        takes: the element type of each input in order (in Core ML, ordered by name): "float32",
            "const int8" where the value is in the file, "" where it is absent or unknown.
        gives: the element type of each output. Of an ONNX operator between DequantizeLinear and
            QuantizeLinear, the types on their far sides: a runtime that fuses the three computes
            in those.
        steps: the quantization scale of each input and output, 0 where the whole tensor has no
            single scale; empty where no tensor is quantized. Only LiteRT files state them.
    """

    operator: str
    takes: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    steps: tuple[float, ...] = ()


@dataclass(frozen=True)
class Graph:
    """The operators of a saved file; constants, inputs and outputs are not counted.

    Attributes:
        format: the name of the file's format.
        kinds: the number of operators of each kind, inner graphs included.
        inputs: the number of the file's inputs.
        outputs: the number of the file's outputs.
        roles: the names that the format has for the operators that are looked for.
    """

    format: str
    kinds: Mapping[OperatorKind, int]
    inputs: int = 0
    outputs: int = 0
    roles: OperatorRoles = field(default=OperatorRoles(), repr=False)

    @property
    def operators(self) -> dict[str, int]:
        """The number of operators of each type, by name."""
        counts: Counter[str] = Counter()
        for kind, count in self.kinds.items():
            counts[kind.operator] += count
        return dict(sorted(counts.items()))

    @property
    def count(self) -> int:
        """The number of all operators."""
        return sum(self.kinds.values())

    def total(self, names: tuple[str, ...]) -> int:
        """The number of operators whose type is in `names`."""
        return sum(count for kind, count in self.kinds.items() if kind.operator in names)

    @property
    def transposes(self) -> int:
        """The number of operators that only reorder elements."""
        return self.total(self.roles.transposes)

    @property
    def reshapes(self) -> int:
        """The number of operators that only change the shape."""
        return self.total(self.roles.reshapes)

    @property
    def unrolled(self) -> str | None:
        """A sentence if a recurrent layer was unrolled step by step, else None."""
        if self.roles.gates is None:
            return None
        gate, candidate = self.roles.gates
        gates, candidates = self.total((gate,)), self.total((candidate,))
        products = self.total(self.roles.products)
        few = candidates < MIN_UNROLLED_STEPS
        if few or gates <= candidates or 2 * products < candidates:
            return None
        return (
            f"A recurrent layer is unrolled step by step: {gates} {gate}, {candidates} "
            f"{candidate} and {products} matrix products among {self.count} operators"
        )


def malformed(path: Path, format: str, why: object) -> ValueError:
    """The error to raise where the file at `path` is not one of `format`."""
    return ValueError(f"{path.name} is no {format} file: {why}")
