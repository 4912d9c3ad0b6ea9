"""Writes Conv1d as Conv2d over images of one row, for LiteRT.

LiteRT has no 1-D convolution: litert-torch 0.10 writes transposes and reshapes around each, which
also prevent the folding of batch norms. This way a temporal network has 31 operators, not 80.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

aten = torch.ops.aten


class Conv1dAs2d:
    """A tensor (batch channels time) that is kept as (batch channels 1 time)."""

    def __init__(self, image: Tensor) -> None:
        self.image = image

    @property
    def signal(self) -> Tensor:
        """The tensor (batch channels time)."""
        return self.image.squeeze(2)


def _one(value: Sequence[int], default: int) -> int:
    return int(value[0]) if value else default


def _conv(
    x: Any,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Any = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Conv1dAs2d:
    image = x.image if isinstance(x, Conv1dAs2d) else x.unsqueeze(2)
    if isinstance(padding, str):  # "same" or "valid"
        pads: Any = padding
    else:
        pads = [0, _one(padding, 0)]
    steps, spread = [1, _one(stride, 1)], [1, _one(dilation, 1)]
    return Conv1dAs2d(
        nn.functional.conv2d(image, weight.unsqueeze(2), bias, steps, pads, spread, groups)
    )


def _max_pool(
    x: Conv1dAs2d,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Conv1dAs2d:
    width = _one(kernel_size, 1)
    return Conv1dAs2d(
        nn.functional.max_pool2d(
            x.image, [1, width], [1, _one(stride, width)], [0, _one(padding, 0)],
            [1, _one(dilation, 1)], ceil_mode,
        )
    )  # fmt: skip


def _average_pool(
    x: Conv1dAs2d,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Conv1dAs2d:
    width = _one(kernel_size, 1)
    return Conv1dAs2d(
        nn.functional.avg_pool2d(
            x.image, [1, width], [1, _one(stride, width)], [0, _one(padding, 0)], ceil_mode,
            count_include_pad,
        )
    )  # fmt: skip


def _mean(x: Conv1dAs2d, dim: Sequence[int], keepdim: bool = False, **options: Any) -> Any:
    if [each % 3 for each in dim] != [2] or options:
        return NotImplemented
    return Conv1dAs2d(x.image.mean([3], keepdim=True)) if keepdim else x.image.mean([2, 3])


def _global_average(x: Conv1dAs2d, output_size: Sequence[int]) -> Any:
    if list(output_size) != [1]:
        return NotImplemented
    return Conv1dAs2d(x.image.mean([3], keepdim=True))


def _elementwise(function: Callable[..., Tensor]) -> Callable[..., Conv1dAs2d]:
    def apply(*values: Any, **options: Any) -> Any:
        images = [value for value in values if isinstance(value, Conv1dAs2d)]
        others = [value for value in values if isinstance(value, Tensor) and value.ndim]
        if others or len({each.image.shape for each in images}) > 1:
            return NotImplemented
        unfolded = [value.image if isinstance(value, Conv1dAs2d) else value for value in values]
        return Conv1dAs2d(function(*unfolded, **options))

    return apply


def _slice(
    x: Conv1dAs2d, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Conv1dAs2d:
    axis = dim % 3
    return Conv1dAs2d(aten.slice.Tensor(x.image, axis + (axis == 2), start, end, step))


def _select(x: Conv1dAs2d, dim: int, index: int) -> Any:
    return x.image.select(3, index).squeeze(2) if dim % 3 == 2 else NotImplemented


def _pad(x: Conv1dAs2d, pad: Sequence[int], value: float = 0.0) -> Any:
    return (
        Conv1dAs2d(aten.constant_pad_nd.default(x.image, pad, value))
        if len(pad) == 2
        else (NotImplemented)
    )


def _batch_norm(x: Conv1dAs2d, *values: Any) -> Conv1dAs2d:
    return Conv1dAs2d(aten.batch_norm.default(x.image, *values))


def _cat(values: Sequence[Any], dim: int = 0) -> Any:
    if not all(isinstance(value, Conv1dAs2d) for value in values) or dim % 3 == 2:
        return NotImplemented
    return Conv1dAs2d(torch.cat([value.image for value in values], dim % 3))


POINTWISE = (
    aten.relu.default, aten.relu_.default, aten.gelu.default, aten.silu.default,
    aten.silu_.default, aten.sigmoid.default, aten.tanh.default, aten.hardtanh.default,
    aten.hardtanh_.default, aten.hardswish.default, aten.hardswish_.default,
    aten.hardsigmoid.default, aten.leaky_relu.default, aten.leaky_relu_.default,
    aten.elu.default, aten.elu_.default, aten.softplus.default, aten.mish.default,
    aten.dropout.default, aten.clone.default, aten.add.Tensor, aten.add_.Tensor, aten.sub.Tensor,
    aten.mul.Tensor, aten.mul_.Tensor,
)  # fmt: skip

RULES: dict[Any, Callable[..., Any]] = {
    aten.conv1d.default: _conv,
    aten.conv1d.padding: _conv,
    aten.batch_norm.default: _batch_norm,
    aten.max_pool1d.default: _max_pool,
    aten.avg_pool1d.default: _average_pool,
    aten.adaptive_avg_pool1d.default: _global_average,
    aten.mean.dim: _mean,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.constant_pad_nd.default: _pad,
    aten.pad.default: lambda x, pad, mode="constant", value=None: (
        _pad(x, pad, value or 0.0) if mode == "constant" else NotImplemented
    ),
    aten.cat.default: _cat,
    **{target: _elementwise(target) for target in POINTWISE},
}
STARTS = (aten.conv1d.default, aten.conv1d.padding)


class _Conv2dInterpreter(torch.fx.Interpreter):
    """Runs a program and keeps the output of every Conv1d as an image of one row."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        leaves = torch.utils._pytree.tree_leaves((args, kwargs))
        if target in RULES and (
            target in STARTS or any(isinstance(leaf, Conv1dAs2d) for leaf in leaves)
        ):
            applies = isinstance(args[0], Conv1dAs2d | list | tuple) or target in STARTS
            result = RULES[target](*args, **kwargs) if applies else NotImplemented
            if result is not NotImplemented:
                return result
        if target is operator.getitem:
            return super().call_function(target, args, kwargs)
        flat = torch.utils._pytree.tree_map(_squeezed, (args, kwargs))
        return super().call_function(target, *flat)

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        return super().output(target, torch.utils._pytree.tree_map(_squeezed, args), kwargs)


def _squeezed(value: Any) -> Any:
    return value.signal if isinstance(value, Conv1dAs2d) else value


class Unsqueezed(nn.Module):
    """An exported program as a module with Conv2d in place of Conv1d; takes its inputs by name."""

    def __init__(self, program: Any) -> None:
        super().__init__()
        self.inner = program.module()
        self.training = False
        self.names = [node.target for node in self.inner.graph.nodes if node.op == "placeholder"]

    def train(self, mode: bool = True) -> Unsqueezed:  # noqa: ARG002
        """Does nothing: an exported program stays in eval mode."""
        return self

    def forward(self, **inputs: Tensor) -> Any:
        values = [inputs[name] for name in self.names]
        outputs = _Conv2dInterpreter(self.inner).run(*values, enable_io_processing=False)
        return torch.utils._pytree.tree_unflatten(outputs, self.inner._out_spec)


# The converter writes this name into every file, several times.
Unsqueezed.__module__ = "edgekd"


def has_signals(program: Any) -> bool:
    """Whether the exported `program` has 1-D convolutions."""
    return any(node.target in STARTS for node in program.graph.nodes)
