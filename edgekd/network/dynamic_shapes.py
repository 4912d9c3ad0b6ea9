"""Sizes of inputs that are free: what a user declares, and how an example comes to another size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from edgekd.artifacts.signature import DynamicDim, TensorSpec
from edgekd.errors import Fault, RecipeError, listed

Sized = Mapping[str, Tensor]


def size_of(dynamic: DynamicDim, inputs: Sized) -> int:
    """The free size that `inputs` have."""
    name, axis = next(iter(dynamic.axes.items()))
    return int(inputs[name].shape[axis])


def resized(
    inputs: Sized, sizes: Mapping[str, int], dynamic: Sequence[DynamicDim]
) -> dict[str, Tensor]:
    """`inputs` with the sizes in `sizes`, by name; what is more is repeated from the start."""
    made = dict(inputs)
    for each in dynamic:
        if each.name not in sizes:
            continue
        for name, axis in each.axes.items():
            places = torch.arange(sizes[each.name]) % made[name].shape[axis]
            made[name] = made[name].index_select(axis, places).contiguous()
    return made


def other_sizes(inputs: Sized, dynamic: Sequence[DynamicDim]) -> list[dict[str, int]]:
    """Two further settings of the free sizes: the least of all, and larger ones than `inputs` have.

    Large limits are not gone to: what holds at three sizes holds at more.
    """
    small, large = {}, {}
    for each in dynamic:
        now = size_of(each, inputs)
        small[each.name] = each.least if each.least != now else min(each.least + 1, each.most)
        large[each.name] = min(each.most, max(2 * now, now + 3))
        if large[each.name] in (now, small[each.name]):
            large[each.name] = max(each.least, (each.least + each.most) // 2)
    return [small, large]


def declared(inputs: Sized, dynamic: Sequence[DynamicDim]) -> None:
    """Raises where what is declared does not fit `inputs`.

    Raises:
        RecipeError: a size is of no input or axis, or the example's lies outside of it.
    """
    for each in dynamic:
        at = f"dynamic.{each.name}"
        for name, axis in each.axes.items():
            if name not in inputs:
                expected = listed(inputs)
                raise RecipeError(_fault(at, f"input {name!r}", expected, "name one of the inputs"))
            if not 0 <= axis < inputs[name].ndim:
                got, expected = f"axis {axis} of {name}", f"0 to {inputs[name].ndim - 1}"
                raise RecipeError(_fault(at, got, expected, "count axes from 0, batch first"))
        sizes = {int(inputs[name].shape[axis]) for name, axis in each.axes.items()}
        now = min(sizes, default=0)
        if len(sizes) != 1 or not each.least <= now <= each.most or each.least >= each.most:
            got = (
                f"{each.least} to {each.most}, and {listed(map(str, sorted(sizes)))} in the example"
            )
            expected = "a range of at least two sizes that the example's lies in"
            raise RecipeError(_fault(at, got, expected, "write tokens = { min = 8, max = 64 }"))


def _fault(at: str, got: str, expected: str, fix: str) -> Fault:
    return Fault(
        what="A free size is not one of the network.", at=at, got=got, expected=expected, fix=fix
    )


def freed(
    specs: Sequence[TensorSpec], shapes: Mapping[str, Sequence[int]]
) -> tuple[TensorSpec, ...]:
    """`specs` with None at the sizes that differ from those in `shapes`."""
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
    """Whether a tensor of `shape` is one that `spec` describes."""
    first = 1 if but_batch else 0
    return len(shape) == len(spec.shape) and all(
        wanted is None or size == wanted
        for size, wanted in zip(shape[first:], spec.shape[first:], strict=True)
    )


def parse_dynamic(words: Sequence[str]) -> tuple[DynamicDim, ...]:
    """The free sizes in `words`, "tokens=8..64@ids:1,mask:1" each.

    Raises:
        RecipeError: a word is not of this form.
    """
    found = []
    for word in words:
        name, _, rest = word.partition("=")
        limits, _, places = rest.partition("@")
        least, _, most = limits.partition("..")
        pairs = [place.rpartition(":") for place in places.split(",") if place]
        numbers = [least, most, *(axis for _, _, axis in pairs)]
        if not name or not pairs or not all(number.isdigit() for number in numbers):
            raise RecipeError(
                Fault(
                    what=f"{word!r} is no free size.",
                    at="--dynamic",
                    got=repr(word),
                    expected="NAME=LEAST..MOST@INPUT:AXIS,INPUT:AXIS",
                    fix="write it like --dynamic tokens=8..64@ids:1,mask:1",
                )
            )
        axes = {each: int(axis) for each, _, axis in pairs}
        found.append(DynamicDim(name, int(least), int(most), axes))
    return tuple(found)
