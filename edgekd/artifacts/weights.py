"""The element types in which a saved file stores its weights, and the operators that read them.

The weights are read from the file itself, as the graph is: they are what the quantizer wrote.
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

NamedTensors = dict[str, Tensor]


def float_tensors(values: Mapping[str, Any]) -> NamedTensors:
    """The numpy arrays of real numbers among `values`, as float32 tensors."""
    return {
        name: torch.from_numpy(np.array(value, dtype=np.float32))
        for name, value in values.items()
        if value.dtype.kind == "f"
    }


@dataclass(frozen=True)
class Weight:
    """Constant tensors of a file that the same operator type reads in the same number of bits.

    Attributes:
        operator: the type of the operator that reads it, past those that only dequantize it.
        bits: the bits of a stored value; of a palette, at most 8.
    """

    operator: str
    bits: int


@dataclass(frozen=True)
class StoredWeights:
    """The weights of a file: constants of two axes or more, neither biases nor scales.

    Attributes:
        values: the number of values of each kind.
        weighted: the operator types that `in_float` looks at; see `OperatorRoles`.
    """

    values: Mapping[Weight, int]
    weighted: frozenset[str] = frozenset()

    def frac(self, bits: int) -> float:
        """The share of the values stored in at most `bits` bits; 0 of a file without weights."""
        total = sum(self.values.values())
        return sum(n for weight, n in self.values.items() if weight.bits <= bits) / (total or 1)

    @property
    def in_float(self) -> list[str]:
        """The operator types that read at least 1 % of all values in float, largest share first."""
        least = sum(self.values.values()) / 100
        counts: Counter[str] = Counter()
        for weight, count in self.values.items():
            if weight.bits > 8 and weight.operator in self.weighted:
                counts[weight.operator] += count
        return [name for name, count in counts.most_common() if count >= least]


BITS = {
    1: "uint1 u1",
    2: "int2 uint2 i2 u2",
    4: "int4 uint4 i4 u4 nf4 f4e2m1",
    8: "int8 uint8 i8 u8 float8e4m3fn float8e5m2 f8e4m3 f8e5m2",
    16: "float16 bfloat16 fp16 f16 bf16",
    32: "float float32 fp32 f32",
    64: "double float64 f64",
}
"""Element types by bits, in the spelling of every format; wider integers are indices or biases."""


_BITS = {name: bits for bits, names in BITS.items() for name in names.split()}


@dataclass(frozen=True)
class Constant:
    """A constant tensor: the operator that reads it, its element type and its shape."""

    operator: str
    kind: str
    shape: tuple[int, ...]


def count_weights(constants: Iterable[Constant]) -> Mapping[Weight, int]:
    """The number of values in those of `constants` that are weights, by kind."""
    counts: Counter[Weight] = Counter()
    for constant in constants:
        count = math.prod(constant.shape)
        # A tensor with one axis longer than 1 is a bias, a scale or the factor of a norm.
        if constant.kind in _BITS and count > max(constant.shape, default=1):
            counts[Weight(constant.operator, _BITS[constant.kind])] += count
    return counts


def reader_of(
    name: str,
    readers: Mapping[str, Sequence[tuple[str, Sequence[str]]]],
    after_weights: frozenset[str],
) -> str:
    """The type of the operator that reads the constant `name`, past those in `after_weights`.

    Args:
        readers: by tensor, the operators that read it: the type and the outputs of each.
        after_weights: see `OperatorRoles`.
    """
    seen = set()
    while name not in seen:
        seen.add(name)
        operator, gives = next(iter(readers.get(name, ())), ("", ()))
        if operator not in after_weights or not gives:
            return operator
        name = gives[0]
    return ""
