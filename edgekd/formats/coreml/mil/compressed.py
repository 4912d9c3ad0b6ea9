"""Operators that unfold compressed weights, and those that quantize values.

Source: coremltools 9.0, converters/mil/mil/ops/defs/iOS16/constexpr_ops.py, iOS17/
quantization_ops.py, iOS18/compression.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgekd.formats.coreml.mil.values import unpacked


def affine_dequantize(
    quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: Tensor
) -> Tensor:
    """scale * (data - zero_point), both along `axis`."""
    return dequantize(quantized_data, scale, zero_point, axis)


def dequantize(
    input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: Tensor | None = None
) -> Tensor:
    """scale * (input - zero_point), both along `axis`."""
    along = _along(input, axis)
    data = input.to(scale.dtype)
    return (data if zero_point is None else data - along(zero_point).to(scale.dtype)) * along(scale)


def quantize(
    input: Tensor,
    scale: Tensor,
    output_dtype: str,
    zero_point: Tensor | None = None,
    axis: Tensor | None = None,
) -> Tensor:
    """clip(round(input / scale) + zero_point), halves to even."""
    along = _along(input, axis)
    steps = torch.round(input / along(scale))
    if zero_point is not None:
        steps = steps + along(zero_point)
    low, high = (-128, 127) if output_dtype == "int8" else (0, 255)
    return steps.clamp(low, high)


def _along(data: Tensor, axis: Tensor | None) -> Callable[[Tensor], Tensor]:
    """What shapes a scale so that it lies along `axis` of `data`."""

    def shaped(scale: Tensor) -> Tensor:
        if scale.ndim == 0 or axis is None:
            return scale
        shape = [1] * data.ndim
        shape[int(axis)] = -1
        return scale.reshape(shape)

    return shaped


def lut_to_dense(
    indices: Tensor, lut: Tensor, shape: Tensor | None = None, vector_axis: Tensor | None = None
) -> Tensor:
    """Values looked up by index: of one table (iOS 16, indices packed in bytes), or of a table for
    each block of the indices, a vector for each where `vector_axis` says along which (iOS 18)."""
    if shape is not None:
        sizes = [int(size) for size in shape]
        bits = round(math.log2(lut.numel()))
        return lut[unpacked(indices, bits, math.prod(sizes))].reshape(sizes)
    axis = int(vector_axis) if vector_axis is not None else -1
    wide, palettes = indices.swapaxes(-1, axis), lut.swapaxes(-3, axis % indices.ndim)
    palettes = _repeated(palettes, [*wide.shape, *palettes.shape[-2:]])
    places = wide.long()[..., None, None].expand(*wide.shape, 1, palettes.shape[-1])
    found = palettes.gather(-2, places).reshape(*wide.shape[:-1], -1)
    return found.swapaxes(-1, axis)


def sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: Tensor | None = None) -> Tensor:
    """Values where the mask has a bit, zeros elsewhere; before iOS 18 the mask is packed bytes."""
    if shape is not None:
        sizes = [int(size) for size in shape]
        mask = unpacked(mask, 1, math.prod(sizes)).reshape(sizes)
    dense = torch.zeros(mask.shape, dtype=nonzero_data.dtype)
    dense[mask != 0] = nonzero_data
    return dense


def lut_to_sparse(
    indices_mask: Tensor,
    indices_nonzero_data: Tensor,
    lut: Tensor,
    vector_axis: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The mask, and the values under it, looked up."""
    if vector_axis is not None and lut.shape[-1] > 1:
        raise NotImplementedError("vectors in a sparse look-up table")
    dense = sparse_to_dense(indices_nonzero_data, indices_mask)
    return indices_mask, lut_to_dense(dense, lut)[indices_mask != 0]


def blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """scale * (data - offset), a scale for each block of the data."""
    values = data.to(scale.dtype)
    if offset is not None:
        values = values - _repeated(offset.to(scale.dtype), data.shape)
    return values * _repeated(scale, data.shape)


def sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The mask, and the values under it, scaled."""
    dense = sparse_to_dense(nonzero_data, data_mask)
    return data_mask, blockwise_shift_scale(dense, scale, offset)[data_mask != 0]


def _repeated(table: Tensor, shape: Any) -> Tensor:
    """`table` with each entry repeated until its shape is `shape`."""
    for axis, size in enumerate(shape):
        if table.shape[axis] != size:
            table = table.repeat_interleave(size // table.shape[axis], dim=axis)
    return table


def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:  # noqa: ARG001
    """The same values; what they are cast to is what the output is declared."""
    return source_val


OPERATORS: dict[str, Callable[..., Any]] = {
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_blockwise_shift_scale": blockwise_shift_scale,
    "constexpr_cast": constexpr_cast,
    "constexpr_lut_to_dense": lut_to_dense,
    "constexpr_lut_to_sparse": lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": sparse_blockwise_shift_scale,
    "constexpr_sparse_to_dense": sparse_to_dense,
    "dequantize": dequantize,
    "quantize": quantize,
}
