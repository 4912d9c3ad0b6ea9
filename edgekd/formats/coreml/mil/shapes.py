"""Operators that move, join, take apart and look up elements, and lists of tensors.

Source: coremltools 9.0, converters/mil/mil/ops/defs/iOS15/{tensor_transformation,tensor_operation,
scatter_gather,control_flow}.py, iOS16 and iOS17 for what they change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

TORCH = {
    "bool": torch.bool,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
}


def _numbers(value: Tensor | Sequence[int]) -> list[int]:
    return [int(number) for number in value]


def _flags(mask: Tensor | None, count: int) -> list[bool]:
    return [bool(flag) for flag in mask] if mask is not None else [False] * count


def _cast(x: Tensor, dtype: str) -> Tensor:
    return x.to(TORCH[dtype])


def _reshape(x: Tensor, shape: Tensor) -> Tensor:
    sizes = _numbers(shape)
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(sizes)])


def _expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in _numbers(axes)):
        x = x.unsqueeze(axis)
    return x


def _squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(_numbers(axes))


def _slice(x: Tensor, axis: int, places: range) -> Tensor:
    if len(places) and places.step > 0:
        return x[(slice(None),) * axis + (slice(places.start, places.stop, places.step),)]
    return x.index_select(axis, torch.tensor(list(places), dtype=torch.int64))


def _slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    rank = x.ndim
    steps = _numbers(stride) if stride is not None else [1] * rank
    open_begin, open_end = _flags(begin_mask, rank), _flags(end_mask, rank)
    dropped = _flags(squeeze_mask, rank)
    for axis in reversed(range(rank)):
        first, last = int(begin[axis]), int(end[axis])
        if dropped[axis]:
            x = x.select(axis, 0 if open_begin[axis] else first)
            continue
        asked = slice(
            None if open_begin[axis] else first, None if open_end[axis] else last, steps[axis]
        )
        x = _slice(x, axis, range(*asked.indices(x.shape[axis])))
    return x


def _slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    for axis, (first, length) in enumerate(zip(_numbers(begin), _numbers(size), strict=True)):
        x = x.narrow(axis, first, x.shape[axis] - first if length == -1 else length)
    return x


def _split(
    x: Tensor,
    axis: Tensor,
    num_splits: Tensor | None = None,
    split_sizes: Tensor | None = None,
) -> tuple[Tensor, ...]:
    dim = int(axis)
    if split_sizes is not None:
        return tuple(x.split(_numbers(split_sizes), dim))
    assert num_splits is not None
    return tuple(x.split(x.shape[dim] // int(num_splits), dim))


def _concat(values: tuple[Tensor, ...], axis: Tensor, interleave: Any = False) -> Tensor:
    if interleave:
        dim = int(axis) % values[0].ndim
        return torch.stack(values, dim + 1).flatten(dim, dim + 1)
    # Numbers become a vector: coremltools 9.0, concat.value_inference of MIL.
    if not values[0].ndim:
        return torch.stack(values)
    return torch.cat(values, int(axis))


def _pad(
    x: Tensor, pad: Tensor, mode: str = "constant", constant_val: Tensor | float = 0.0
) -> Tensor:
    sizes = _numbers(pad)
    first = x.ndim - len(sizes) // 2
    for axis in range(first, x.ndim):
        low, high = sizes[2 * (axis - first)], sizes[2 * (axis - first) + 1]
        if not low and not high:
            continue
        size = x.shape[axis]
        places = torch.arange(-low, size + high)
        if mode == "reflect":
            places = (size - 1) - ((size - 1) - places.abs()).abs()
        taken = x.index_select(axis, places.clamp(0, size - 1))
        if mode == "constant":
            shape = [-1 if i == axis else 1 for i in range(x.ndim)]
            outside = ((places < 0) | (places >= size)).reshape(shape)
            taken = taken.masked_fill(outside, float(constant_val))
        x = taken
    return x


def _tile(x: Tensor, reps: Tensor) -> Tensor:
    return x.repeat(_numbers(reps))


def _topk(
    x: Tensor,
    k: Tensor | int = 1,
    axis: Tensor | int = -1,
    ascending: Any = False,
    sort: Any = True,
    return_indices: Any = True,
    output_indices_dtype: str = "int32",  # noqa: ARG001  the output's declaration says it too
) -> Any:
    values, places = x.topk(int(k), int(axis), not bool(ascending), bool(sort))
    return (values, places) if return_indices else values


def _cumsum(
    x: Tensor, axis: Tensor | int = 0, exclusive: Any = False, reverse: Any = False
) -> Tensor:
    dim = int(axis)
    data = x.flip(dim) if reverse else x
    total = data.cumsum(dim)
    total = total - data if exclusive else total
    return total.flip(dim) if reverse else total


def _one_hot(
    indices: Tensor,
    one_hot_vector_size: Tensor,
    axis: Tensor | int = -1,
    on_value: Tensor | int = 1,
    off_value: Tensor | int = 0,
) -> Tensor:
    count = int(one_hot_vector_size)
    hit = indices.unsqueeze(-1) == torch.arange(count)
    hot = torch.where(hit, torch.as_tensor(on_value), torch.as_tensor(off_value))
    return hot.movedim(-1, int(axis))


def _band_part(x: Tensor, lower: Tensor | int = -1, upper: Tensor | int = -1) -> Tensor:
    below, above = int(lower), int(upper)
    kept = x if below < 0 else x.triu(-below)
    return kept if above < 0 else kept.tril(above)


def _wrapped(indices: Tensor, size: int) -> Tensor:
    places = indices.long()
    return torch.where(places < 0, places + size, places)


def _gather(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | int = 0,
    batch_dims: Tensor | int = 0,
    validate_indices: Any = False,
) -> Tensor:
    dim, batch = int(axis) % x.ndim, int(batch_dims)
    if batch:
        return torch.stack(
            [_gather(x[i], indices[i], dim - 1, batch - 1, validate_indices)
             for i in range(len(x))]
        )  # fmt: skip
    places = _wrapped(indices, x.shape[dim])
    taken = x.index_select(dim, places.flatten())
    return taken.reshape((*x.shape[:dim], *indices.shape, *x.shape[dim + 1 :]))


def _gather_along_axis(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | int = 0,
    validate_indices: Any = False,  # noqa: ARG001
) -> Tensor:
    dim = int(axis) % x.ndim
    places = _wrapped(indices, x.shape[dim])
    shape = [places.shape[i] if i == dim else x.shape[i] for i in range(x.ndim)]
    return x.gather(dim, places.expand(shape))


def _gather_nd(
    x: Tensor, indices: Tensor, batch_dims: Tensor | int = 0, validate_indices: Any = False
) -> Tensor:
    batch = int(batch_dims)
    if batch:
        return torch.stack(
            [_gather_nd(x[i], indices[i], batch - 1, validate_indices) for i in range(len(x))]
        )
    return x[_coordinates(x, indices)]


def _coordinates(x: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
    return tuple(_wrapped(part, x.shape[i]) for i, part in enumerate(indices.unbind(-1)))


_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _written(data: Tensor, place: tuple[Any, ...], updates: Tensor, mode: str) -> Tensor:
    """`data` with `updates` written or combined at `place`, an index as of `data[place]`."""
    numbers = torch.arange(data.numel()).reshape(data.shape)[place]
    values = updates.expand(numbers.shape).flatten().to(data.dtype)
    flat = data.flatten().clone()
    if mode == "update":
        flat[numbers.flatten()] = values
    else:
        if mode in ("sub", "div"):
            values = -values if mode == "sub" else 1 / values
        kind = _REDUCE["add" if mode == "sub" else "mul" if mode == "div" else mode]
        flat = flat.scatter_reduce(0, numbers.flatten(), values, kind)
    return flat.reshape(data.shape)


def _scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Tensor | int = 0,
    mode: str = "add",
    validate_indices: Any = False,  # noqa: ARG001
) -> Tensor:
    dim = int(axis) % data.ndim
    places = _wrapped(indices, data.shape[dim])
    return _written(data, (*[slice(None)] * dim, places), updates, mode)


def _scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Tensor | int = 0,
    mode: str = "add",
    validate_indices: Any = False,  # noqa: ARG001
) -> Tensor:
    dim = int(axis) % data.ndim
    place: list[Tensor] = list(torch.meshgrid(
        *[torch.arange(size) for size in indices.shape], indexing="ij"
    ))  # fmt: skip
    place[dim] = _wrapped(indices, data.shape[dim])
    return _written(data, tuple(place), updates, mode)


def _scatter_nd(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    mode: str = "add",
    validate_indices: Any = False,  # noqa: ARG001
) -> Tensor:
    return _written(data, _coordinates(data, indices), updates, mode)


def _non_zero(x: Tensor) -> Tensor:
    return x.nonzero()


def _sliding_windows(x: Tensor, axis: Tensor, size: Tensor, stride: Tensor | int = 1) -> Tensor:
    dim = int(axis) % x.ndim
    return x.unfold(dim, int(size), int(stride)).movedim(-1, dim + 1)


def _flatten2d(x: Tensor, axis: Tensor | int = 1) -> Tensor:
    return x.reshape(math.prod(x.shape[: int(axis)]), -1)


def _range(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), end.item(), step.item())


def _make_list(
    elem_shape: Any = (),  # noqa: ARG001
    init_length: Tensor | int = 1,
    dynamic_length: Any = True,  # noqa: ARG001
    dtype: str = "fp32",  # noqa: ARG001
) -> list[Tensor | None]:
    return [None] * int(init_length)


def _list_write(ls: list[Tensor | None], index: Tensor, value: Tensor) -> list[Tensor | None]:
    place = int(index)
    longer = [*ls, *[None] * (place + 1 - len(ls))]
    longer[place] = value
    return longer


def _list_gather(ls: list[Tensor], indices: Tensor) -> Tensor:
    return torch.stack([ls[place] for place in _numbers(indices)])


OPERATORS: dict[str, Callable[..., Any]] = {
    "argsort": lambda x, axis=-1, ascending=False: x.argsort(
        dim=int(axis), descending=not bool(ascending)
    ),
    "band_part": _band_part,
    "cast": _cast,
    "concat": _concat,
    "cumsum": _cumsum,
    "expand_dims": _expand_dims,
    "fill": lambda shape, value=0.0: torch.as_tensor(value).expand(_numbers(shape)).clone(),
    "fill_like": lambda ref_tensor, value=0.0: torch.as_tensor(value).expand(ref_tensor.shape),
    "flatten2d": _flatten2d,
    "gather": _gather,
    "gather_along_axis": _gather_along_axis,
    "gather_nd": _gather_nd,
    "list_gather": _list_gather,
    "list_length": lambda ls: torch.tensor(len(ls)),
    "list_read": lambda ls, index: ls[int(index)],
    "list_write": _list_write,
    "make_list": _make_list,
    "non_zero": _non_zero,
    "one_hot": _one_hot,
    "pad": _pad,
    "range_1d": _range,
    "reshape": _reshape,
    "reverse": lambda x, axes=None: x.flip(
        _numbers(axes) if axes is not None else list(range(x.ndim))
    ),
    "scatter": _scatter,
    "scatter_along_axis": _scatter_along_axis,
    "scatter_nd": _scatter_nd,
    "select": lambda cond, a, b: torch.where(cond.bool(), a, b),
    "shape": lambda x: torch.tensor(x.shape),
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "sliding_windows": _sliding_windows,
    "split": _split,
    "squeeze": _squeeze,
    "stack": lambda values, axis: torch.stack(values, int(axis)),
    "tile": _tile,
    "topk": _topk,
    "transpose": lambda x, perm: x.permute(_numbers(perm)),
}
