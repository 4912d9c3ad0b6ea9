"""Dynamic dimensions: their declaration, and examples of other sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from edgekd.artifacts.signature import DynamicDim, TensorSpec
from edgekd.errors import Fault, RecipeError, listed

Sized = Mapping[str, Tensor]


def size_of(dynamic: DynamicDim, inputs: Sized) -> int:
    """The size of the dynamic dimension in `inputs`."""
    name, axis = next(iter(dynamic.axes.items()))
    return int(inputs[name].shape[axis])


def resized(
    inputs: Sized, sizes: Mapping[str, int], dynamic: Sequence[DynamicDim]
) -> dict[str, Tensor]:
    """`inputs` with other sizes, by name of the dimension; larger ones repeat the values."""
    result = dict(inputs)
    for dim in dynamic:
        if dim.name not in sizes:
            continue
        for name, axis in dim.axes.items():
            index = torch.arange(sizes[dim.name]) % result[name].shape[axis]
            result[name] = result[name].index_select(axis, index).contiguous()
    return result


def other_sizes(inputs: Sized, dynamic: Sequence[DynamicDim]) -> list[dict[str, int]]:
    """Two more settings of the dynamic dimensions: the smallest sizes, and larger than in `inputs`.

    Three sizes are enough to show that a dimension is dynamic, so very large ones are not tried.
    """
    small, large = {}, {}
    for dim in dynamic:
        now = size_of(dim, inputs)
        small[dim.name] = dim.least if dim.least != now else min(dim.least + 1, dim.most)
        large[dim.name] = min(dim.most, max(2 * now, now + 3))
        if large[dim.name] in (now, small[dim.name]):
            large[dim.name] = max(dim.least, (dim.least + dim.most) // 2)
    return [small, large]


def check_dynamic_dims(inputs: Sized, dynamic: Sequence[DynamicDim]) -> None:
    """Checks that the declared dynamic dimensions fit `inputs`.

    Raises:
        RecipeError: an input or axis does not exist, or the example's size is out of range.
    """
    for dim in dynamic:
        at = f"dynamic.{dim.name}"
        for name, axis in dim.axes.items():
            if name not in inputs:
                expected = listed(inputs)
                raise RecipeError(_fault(at, f"input {name!r}", expected, "name one of the inputs"))
            if not 0 <= axis < inputs[name].ndim:
                got, expected = f"axis {axis} of {name}", f"0 to {inputs[name].ndim - 1}"
                raise RecipeError(_fault(at, got, expected, "count axes from 0, batch first"))
        sizes = {int(inputs[name].shape[axis]) for name, axis in dim.axes.items()}
        now = min(sizes, default=0)
        if len(sizes) != 1 or not dim.least <= now <= dim.most or dim.least >= dim.most:
            got = f"{dim.least} to {dim.most}, and {listed(map(str, sorted(sizes)))} in the example"
            expected = "a range of at least two sizes that includes the example's size"
            raise RecipeError(_fault(at, got, expected, "write tokens = { min = 8, max = 64 }"))


def _fault(at: str, got: str, expected: str, fix: str) -> Fault:
    return Fault(
        what="A dynamic dimension does not fit the network.",
        at=at,
        got=got,
        expected=expected,
        fix=fix,
    )


def with_dynamic_dims(
    specs: Sequence[TensorSpec], shapes: Mapping[str, Sequence[int]]
) -> tuple[TensorSpec, ...]:
    """`specs` with None for the dimensions whose size differs in `shapes`."""
    return tuple(
        replace(
            spec,
            shape=tuple(
                old if old == new else None
                for old, new in zip(spec.shape, shapes[spec.name], strict=True)
            ),
        )
        for spec in specs
    )


def fits(shape: Sequence[int], spec: TensorSpec, *, but_batch: bool = False) -> bool:
    """Whether a tensor of `shape` fits `spec`."""
    first = 1 if but_batch else 0
    return len(shape) == len(spec.shape) and all(
        expected is None or size == expected
        for size, expected in zip(shape[first:], spec.shape[first:], strict=True)
    )


SIZE = re.compile(r"[0-9]{1,9}")
"""A size or an axis on the command line."""


def parse_dynamic(args: Sequence[str]) -> tuple[DynamicDim, ...]:
    """The dynamic dimensions that `args` describe, each like "tokens=8..64@ids:1,mask:1".

    Raises:
        RecipeError: an argument does not have this form.
    """
    dims = []
    for arg in args:
        name, _, rest = arg.partition("=")
        limits, _, axes = rest.partition("@")
        least, _, most = limits.partition("..")
        pairs = [axis.rpartition(":") for axis in axes.split(",") if axis]
        numbers = [least, most, *(axis for _, _, axis in pairs)]
        if not name or not pairs or not all(SIZE.fullmatch(number) for number in numbers):
            raise RecipeError(
                Fault(
                    what=f"{arg!r} does not describe a dynamic dimension.",
                    at="--dynamic",
                    got=repr(arg),
                    expected="NAME=LEAST..MOST@INPUT:AXIS,INPUT:AXIS",
                    fix="write it like --dynamic tokens=8..64@ids:1,mask:1",
                )
            )
        by_input = {given: int(axis) for given, _, axis in pairs}
        dims.append(DynamicDim(name, int(least), int(most), by_input))
    return tuple(dims)
