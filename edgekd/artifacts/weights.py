"""In which types a saved file holds its weights, and which operators read them.

The file itself is read, as for the graph: what is here is what the quantizer wrote.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgekd.artifacts.operators import AFTER_WEIGHTS, WEIGHTED

Found = dict[str, Tensor]


def _floats(found: Mapping[str, Any]) -> Found:
    return {
        name: torch.from_numpy(np.array(value, dtype=np.float32))
        for name, value in found.items()
        if value.dtype.kind == "f"
    }


@dataclass(frozen=True)
class Weight:
    """Constant tensors of a file that have something in common.

    Attributes:
        operator: the type of what reads it, behind the operators that only make floats of it.
        bits: in which a value is stored; of a palette, 8 at most.
    """

    operator: str
    bits: int


@dataclass(frozen=True)
class Stored:
    """The weights of a file: constants of two axes or more, neither biases nor scales.

    Attributes:
        values: how many values there are of each kind.
    """

    values: Mapping[Weight, int]

    def frac(self, bits: int) -> float:
        """The share of the values that take so many bits or fewer; 0 where there are none."""
        whole = sum(self.values.values())
        return sum(n for each, n in self.values.items() if each.bits <= bits) / (whole or 1)

    @property
    def in_float(self) -> list[str]:
        """The types of operators that read a hundredth of all values or more in float, that of most
        first."""
        least = sum(self.values.values()) / 100
        found: Counter[str] = Counter()
        for each, count in self.values.items():
            if each.bits > 8 and each.operator in WEIGHTED:
                found[each.operator] += count
        return [name for name, count in found.most_common() if count >= least]


BITS = {
    1: "uint1 u1",
    2: "int2 uint2 i2 u2",
    4: "int4 uint4 i4 u4 nf4 f4e2m1",
    8: "int8 uint8 i8 u8 float8e4m3fn float8e5m2 f8e4m3 f8e5m2",
    16: "float16 bfloat16 fp16 f16 bf16",
    32: "float float32 fp32 f32",
    64: "double float64 f64",
}
"""Of the element types of all formats; whole numbers of more bits are indices, or biases."""


_BITS = {name: bits for bits, names in BITS.items() for name in names.split()}


@dataclass(frozen=True)
class Constant:
    """A constant tensor: the operator that reads it, its element type and its shape."""

    operator: str
    kind: str
    shape: tuple[int, ...]


def _counted(constants: Iterable[Constant]) -> Mapping[Weight, int]:
    found: Counter[Weight] = Counter()
    for each in constants:
        count = math.prod(each.shape)
        # One long axis alone: a bias, a scale, or what a norm multiplies by.
        if each.kind in _BITS and count > max(each.shape, default=1):
            found[Weight(each.operator, _BITS[each.kind])] += count
    return found


def _reader(name: str, readers: Mapping[str, Sequence[tuple[str, Sequence[str]]]]) -> str:
    """The type of the operator that reads `name` at last, by what operators take and give."""
    seen = set()
    while name not in seen:
        seen.add(name)
        operator, gives = next(iter(readers.get(name, ())), ("", ()))
        if operator not in AFTER_WEIGHTS or not gives:
            return operator
        name = gives[0]
    return ""
