"""The operators in a saved file, read from the file itself, whichever format it has.

Nothing is loaded into a runtime, and no weight is read: what is here is what the converter wrote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekd.artifacts.operators import GATES, PRODUCTS, RESHAPES, STEPS, TRANSPOSES

CONST = "const "
"""Before the element type of an input whose value is in the file."""


@dataclass(frozen=True)
class OperatorKind:
    """What operators have in common: their type, and the element types of what they take and give.

    Attributes:
        operator: the type, as the format calls it; of a custom operator, its own name.
        takes: of each input in order (in Core ML, of their names): "float32", "const int8" where
            the value is in the file, "" where it is absent or unknown.
        gives: of each output. Around an ONNX operator, the types behind DequantizeLinear and
            QuantizeLinear: those are what a runtime computes in where it fuses the three.
        steps: the quantization step of each of these, 0 where there is not one for the whole
            tensor; empty where none is quantized. Only LiteRT files tell.
    """

    operator: str
    takes: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    steps: tuple[float, ...] = ()


@dataclass(frozen=True)
class Graph:
    """The operators of a saved file; constants, inputs and outputs are not counted.

    Attributes:
        format: onnx, openvino, litert, coreml or ncnn.
        kinds: how many operators there are of each kind, in inner graphs too.
        inputs: how many inputs the file has.
        outputs: how many outputs it has.
    """

    format: str
    kinds: Mapping[OperatorKind, int]
    inputs: int = 0
    outputs: int = 0

    @property
    def operators(self) -> dict[str, int]:
        """How many operators there are of each type, by name."""
        found: Counter[str] = Counter()
        for kind, count in self.kinds.items():
            found[kind.operator] += count
        return dict(sorted(found.items()))

    @property
    def count(self) -> int:
        """How many operators there are in all."""
        return sum(self.kinds.values())

    def total(self, names: tuple[str, ...]) -> int:
        """How many operators are of one of the types `names`."""
        return sum(count for kind, count in self.kinds.items() if kind.operator in names)

    @property
    def transposes(self) -> int:
        """How many operators only move elements to another order."""
        return self.total(TRANSPOSES[self.format])

    @property
    def reshapes(self) -> int:
        """How many operators only change the shape."""
        return self.total(RESHAPES[self.format])

    @property
    def unrolled(self) -> str | None:
        """A sentence where a recurrent layer was written out step by step, or None."""
        gate, candidate = GATES[self.format]
        gates, candidates = self.total((gate,)), self.total((candidate,))
        products = self.total(PRODUCTS[self.format])
        if candidates < STEPS or gates <= candidates or 2 * products < candidates:
            return None
        return (
            f"A recurrent layer is written out step by step: {gates} {gate}, {candidates} "
            f"{candidate} and {products} matrix products among {self.count} operators"
        )


def _broken(path: Path, format: str, why: object) -> ValueError:
    return ValueError(f"{path.name} is no {format} file: {why}")
