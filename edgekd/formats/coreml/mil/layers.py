"""Convolutions, pooling, normalisation, products and attention.

Source: coremltools 9.0, converters/mil/mil/ops/defs/iOS15/{conv,pool,normalization,linear}.py and
iOS18/transformers.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def _numbers(value: Tensor | None, default: Sequence[int]) -> list[int]:
    return [int(number) for number in value] if value is not None else list(default)


def _pads(
    kind: str,
    pad: Tensor | None,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[tuple[int, int]]:
    """What is added before and after each spatial axis."""
    if kind == "custom":
        both = _numbers(pad, [0] * 2 * len(sizes))
        return list(zip(both[::2], both[1::2], strict=True))
    if kind == "valid":
        return [(0, 0)] * len(sizes)
    pads = []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        reach = (width - 1) * dilation + 1
        total = max(0, stride * math.ceil(size / stride) - size + reach - stride)
        less, more = total // 2, total - total // 2
        pads.append((more, less) if kind == "same_lower" else (less, more))
    return pads


def _padded(x: Tensor, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    flat = [number for pair in reversed(pads) for number in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | int = 1,
) -> Tensor:
    axes = x.ndim - 2
    steps, spread = _numbers(strides, [1] * axes), _numbers(dilations, [1] * axes)
    pads = _pads(pad_type, pad, x.shape[2:], weight.shape[2:], steps, spread)
    function = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    return function(_padded(x, pads), weight, bias, steps, 0, spread, int(groups))


def _conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Tensor | None = None,
    output_shape: Tensor | None = None,
    pad_type: str = "valid",
    strides: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | int = 1,
) -> Tensor:
    axes = x.ndim - 2
    steps, spread = _numbers(strides, [1] * axes), _numbers(dilations, [1] * axes)
    function: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]
    whole: Tensor = function(x, weight, bias, steps, 0, 0, int(groups), spread)
    wanted = _numbers(output_shape, [0] * (axes + 2))[2:]
    cuts = _numbers(pad, [0] * 2 * axes)
    for axis in range(axes):
        full = whole.shape[axis + 2]
        if pad_type == "custom":
            start, length = cuts[2 * axis], full - cuts[2 * axis] - cuts[2 * axis + 1]
        elif pad_type == "valid":
            start, length = 0, full
        else:
            length = x.shape[axis + 2] * steps[axis]
            start = max(0, full - length) // 2
        length = wanted[axis] or length
        if start + length > full:
            whole = _padded(whole, [(0, start + length - full if i == axis else 0)
                                    for i in range(axes)])  # fmt: skip
        whole = whole.narrow(axis + 2, start, length)
    return whole


def _pool(kind: str) -> Callable[..., Tensor]:
    def pool(
        x: Tensor,
        kernel_sizes: Tensor,
        strides: Tensor | None = None,
        pad_type: str = "valid",
        pad: Tensor | None = None,
        ceil_mode: Any = False,
        exclude_padding_from_average: Any = False,
    ) -> Tensor:
        axes = x.ndim - 2
        kernel = _numbers(kernel_sizes, ())
        steps = _numbers(strides, [1] * axes)
        pads = _pads(pad_type, pad, x.shape[2:], kernel, steps, [1] * axes)
        if kind == "max":
            most = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[axes - 1]
            return most(_padded(x, pads, -math.inf), kernel, steps, ceil_mode=bool(ceil_mode))
        average: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[axes - 1]
        even = all(
            low == high <= width // 2 for (low, high), width in zip(pads, kernel, strict=True)
        )
        data = x.square() if kind == "l2" else x
        if even:
            counted = not bool(exclude_padding_from_average)
            lows = [low for low, _ in pads]
            mean: Tensor = average(data, kernel, steps, lows, bool(ceil_mode), counted)
        else:
            mean = average(_padded(data, pads), kernel, steps)
            if exclude_padding_from_average:
                mean = mean / average(_padded(torch.ones_like(data), pads), kernel, steps)
        return (mean * math.prod(kernel)).sqrt() if kind == "l2" else mean

    return pool


def _by_channel(value: Tensor | None, x: Tensor, default: float) -> Tensor:
    if value is None:
        return torch.full((), default, dtype=x.dtype)
    return value.reshape(1, -1, *[1] * (x.ndim - 2))


def _batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    scaled = (x - _by_channel(mean, x, 0)) * torch.rsqrt(_by_channel(variance, x, 1) + epsilon)
    return scaled * _by_channel(gamma, x, 1) + _by_channel(beta, x, 0)


def _instance_norm(
    x: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    axes = tuple(range(2, x.ndim))
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    scaled = (x - mean) * torch.rsqrt(variance + epsilon)
    return scaled * _by_channel(gamma, x, 1) + _by_channel(beta, x, 0)


def _layer_norm(
    x: Tensor,
    axes: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    dims = sorted(axis % x.ndim for axis in _numbers(axes, range(x.ndim)))
    shape = [x.shape[i] if i in dims else 1 for i in range(x.ndim)]
    variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    normed = (x - mean) * torch.rsqrt(variance + epsilon)
    if gamma is not None:
        normed = normed * gamma.reshape(shape)
    return normed + beta.reshape(shape) if beta is not None else normed


def _l2_norm(x: Tensor, epsilon: Tensor | float = 1e-6) -> Tensor:
    return x * torch.rsqrt(x.square().sum((-3, -2, -1), keepdim=True) + epsilon)


def _local_response_norm(
    x: Tensor,
    size: Tensor,
    alpha: Tensor | float = 1e-4,
    beta: Tensor | float = 0.75,
    k: Tensor | float = 1.0,
) -> Tensor:
    return F.local_response_norm(x, int(size), float(alpha), float(beta), float(k))


def _matmul(x: Tensor, y: Tensor, transpose_x: Any = False, transpose_y: Any = False) -> Tensor:
    left = x.transpose(-1, -2) if transpose_x else x
    return left @ (y.transpose(-1, -2) if transpose_y else y)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None
) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask)


def _einsum(values: tuple[Tensor, ...], equation: str) -> Tensor:
    return torch.einsum(equation, *values)


OPERATORS: dict[str, Callable[..., Any]] = {
    "avg_pool": _pool("average"),
    "batch_norm": _batch_norm,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "einsum": _einsum,
    "instance_norm": _instance_norm,
    "l2_norm": _l2_norm,
    "l2_pool": _pool("l2"),
    "layer_norm": _layer_norm,
    "linear": lambda x, weight, bias=None: F.linear(x, weight, bias),
    "local_response_norm": _local_response_norm,
    "matmul": _matmul,
    "max_pool": _pool("max"),
    "scaled_dot_product_attention": _attention,
}
