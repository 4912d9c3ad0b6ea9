"""Decompositions of operators that converters refuse or convert incorrectly.

Each is an entry of a table for `ExportedProgram.run_decompositions`; one that returns
NotImplemented leaves the operator as it is. Indices come from operators, not from tensors: torch
2.13 refuses the lifted constants of a decomposition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def nearest(
    x: Tensor, output_size: Sequence[int] | None, scale_factors: Sequence[float] | None = None
) -> Any:
    """Nearest resizing by a factor that is not an integer, as a look-up of rows and columns.

    coremltools 9.0 writes a scale that is slightly too large, so some indices are one too low.
    litert-torch 0.10 writes the size alone, from which LiteRT's kernel takes other indices.
    """
    size = x.shape[-2:]
    scales = scale_factors if output_size is None else None
    new_size = list(output_size or ())
    if scales is not None:
        new_size = [math.floor(old * scale) for old, scale in zip(size, scales, strict=True)]
    if all(new % old == 0 for new, old in zip(new_size, size, strict=True)):
        return NotImplemented
    for axis in (-2, -1):
        new, old = new_size[axis], size[axis]
        if scales is not None:
            step = torch.arange(new, dtype=torch.float32) * (1 / scales[axis])
            x = x.index_select(axis, step.int().clamp(max=old - 1))
        elif new != old:
            x = x.index_select(axis, (torch.arange(new) * old // new).int())
    return x


def _pieces(size: int, count: int) -> list[tuple[int, int]]:
    """The start and the length of each of `count` adaptive windows over `size`."""
    starts = [i * size // count for i in range(count)]
    return [(start, -(-(i + 1) * size // count) - start) for i, start in enumerate(starts)]


def adaptive_average_3d(x: Tensor, output_size: Sequence[int | None]) -> Tensor:
    """Means over windows, axis by axis. coremltools 9.0 has no adaptive pooling over three axes."""
    for axis, count in zip((-3, -2, -1), output_size, strict=True):
        if count is not None and count != x.shape[axis]:
            means = [
                x.narrow(axis, *piece).mean(axis, keepdim=True)
                for piece in _pieces(x.shape[axis], count)
            ]
            x = torch.cat(means, axis)
    return x


def adaptive_max_2d(x: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Maxima over windows, and a placeholder for the indices, which nothing reads.

    litert-torch 0.10 lacks this operator.
    """
    for axis, count in zip((-2, -1), output_size, strict=True):
        maxima = [
            x.narrow(axis, *piece).amax(axis, keepdim=True)
            for piece in _pieces(x.shape[axis], count)
        ]
        x = torch.cat(maxima, axis)
    return x, torch.zeros((), dtype=torch.int64)


def _pair(value: Sequence[int], count: int = 2) -> list[int]:
    return list(value) * count if len(value) == 1 else list(value)


def dilated_max_2d(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Any:
    """The maximum of shifted copies. Core ML has no dilated pooling (coremltools#1665)."""
    kernel, pads, spread = _pair(kernel_size), _pair(padding), _pair(dilation)
    steps = _pair(stride or kernel_size)
    if spread == [1, 1]:
        return NotImplemented
    size, counts, after = x.shape[-2:], [], []
    for i in range(2):
        reach = spread[i] * (kernel[i] - 1)
        free = size[i] + 2 * pads[i] - reach - 1
        count = (-(-free // steps[i]) if ceil_mode else free // steps[i]) + 1
        if ceil_mode and (count - 1) * steps[i] >= size[i] + pads[i]:
            count -= 1
        counts.append(count)
        after.append(max((count - 1) * steps[i] + reach + 1 - size[i] - pads[i], 0))
    least = torch.finfo(torch.float16).min  # finite in an FP16 program too
    x = torch.constant_pad_nd(x, [pads[1], after[1], pads[0], after[0]], least)
    best = None
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            top, left = i * spread[0], j * spread[1]
            bottom = top + (counts[0] - 1) * steps[0] + 1
            right = left + (counts[1] - 1) * steps[1] + 1
            part = x[..., top : bottom : steps[0], left : right : steps[1]]
            best = part if best is None else torch.maximum(best, part)
    return best


def transposed_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> Any:
    """A transposed convolution without padding or dilation, cropped.

    litert-torch 0.10 refuses padding over (kernel - stride) / 2 and most dilation (litert-torch
    #316), and converts padding together with output padding incorrectly.
    """
    axes = weight.ndim - 2
    steps, pads, more, spread = (
        _pair(value, axes) for value in (stride, padding, output_padding, dilation)
    )
    kernel = list(weight.shape[2:])
    if all(
        spread[i] == 1 and (pads[i] == 0 or (more[i] == 0 and 2 * pads[i] == kernel[i] - steps[i]))
        for i in range(axes)
    ):
        return NotImplemented
    for i in range(axes):
        if spread[i] > 1:  # zeros between the weights
            shape = list(weight.shape)
            apart = weight.unsqueeze(3 + i)
            zeros = [torch.zeros_like(apart)] * (spread[i] - 1)
            joined = torch.cat([apart, *zeros], 3 + i)
            weight = joined.reshape(*shape[: 2 + i], -1, *shape[3 + i :])
            weight = weight.narrow(2 + i, 0, (shape[2 + i] - 1) * spread[i] + 1)
    beyond = [max(more[i] - pads[i], 0) for i in range(axes)]
    run: Any = (torch.conv_transpose1d, torch.conv_transpose2d)[axes - 1]
    out: Tensor = run(x, weight, bias, steps, [0] * axes, beyond, groups)
    for i in range(axes):
        reach = spread[i] * (kernel[i] - 1)
        length = (x.shape[2 + i] - 1) * steps[i] - 2 * pads[i] + reach + more[i] + 1
        out = out.narrow(2 + i, pads[i], length)
    return out


def _filled(value: float | None) -> Callable[..., Tensor]:
    """`zeros_like` and similar operators as `full`.

    coremltools 9.0 drops their keyword `dtype`, so a float mask stays boolean and has the inverse
    meaning.
    """

    def full(x: Tensor, *more: Any, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
        return torch.full(tuple(x.shape), value if value is not None else more[0],
                          dtype=dtype or x.dtype)  # fmt: skip

    return full


def _new(value: float | None) -> Callable[..., Tensor]:
    """`new_zeros` and others as `full`. coremltools 9.0 lacks them (coremltools#2668)."""

    def full(
        x: Tensor, size: Sequence[int], *more: Any, dtype: torch.dtype | None = None, **_: Any
    ) -> Tensor:
        return torch.full(tuple(size), value if value is not None else more[0],
                          dtype=dtype or x.dtype)  # fmt: skip

    return full


def _logical(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """Bitwise operators on booleans as logical ones. Not in coremltools 9.0 (coremltools#2668)."""

    def combined(*tensors: Tensor) -> Any:
        return function(*tensors) if tensors[0].dtype == torch.bool else NotImplemented

    return combined


LITERT: dict[Any, Callable[..., Any]] = {
    aten.adaptive_max_pool2d.default: adaptive_max_2d,
    aten.conv_transpose1d.default: transposed_convolution,
    aten.conv_transpose2d.input: transposed_convolution,
    aten.upsample_nearest2d.vec: nearest,
}


def coreml() -> dict[Any, Callable[..., Any]]:
    """The table for coremltools 9.0, with some of torch's own decompositions."""
    builtin = torch._decomp.get_decompositions(
        [aten.upsample_bicubic2d, aten.addcmul, aten.addcdiv]
    )
    return {
        **builtin,
        aten.adaptive_avg_pool3d.default: adaptive_average_3d,
        aten.max_pool2d.default: dilated_max_2d,
        aten.upsample_nearest2d.vec: nearest,
        aten.zeros_like.default: _filled(0),
        aten.ones_like.default: _filled(1),
        aten.full_like.default: _filled(None),
        aten.new_zeros.default: _new(0),
        aten.new_ones.default: _new(1),
        aten.new_full.default: _new(None),
        aten.bitwise_not.default: _logical(torch.logical_not),
        aten.bitwise_and.Tensor: _logical(torch.logical_and),
        aten.bitwise_or.Tensor: _logical(torch.logical_or),
        aten.bitwise_xor.Tensor: _logical(torch.logical_xor),
        aten.__and__.Tensor: _logical(torch.logical_and),
        aten.__or__.Tensor: _logical(torch.logical_or),
        aten.__xor__.Tensor: _logical(torch.logical_xor),
    }


def softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:  # noqa: ARG001
    """log(1 + e^(beta x)) / beta, from terms that cannot overflow."""
    return x.relu() + (1 + (-(x * beta).abs()).exp()).log() / beta


def layer_norm_whole(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,  # noqa: ARG001  the operator has it
) -> Any:
    """Layer norm over several axes as one over their flattened axis."""
    if len(shape) == 1:
        return NotImplemented
    begin = x.ndim - len(shape)
    flat = torch.nn.functional.layer_norm(x.flatten(begin), [math.prod(shape)], eps=eps)
    flat = flat if weight is None else flat * weight.flatten()
    flat = flat if bias is None else flat + bias.flatten()
    return flat.reshape(x.shape)


def ncnn() -> dict[Any, Callable[..., Any]]:
    """The table for pnnx 20261020, which leaves these operators or drops part of them."""
    return {
        aten.softplus.default: softplus,
        aten.layer_norm.default: layer_norm_whole,
        aten.max_pool2d.default: dilated_max_2d,
    }
