"""Operators that take each element alone, reductions, and activations.

Source: coremltools 9.0, converters/mil/mil/ops/defs/iOS15/{elementwise_unary,elementwise_binary,
activation,reduction}.py and what iOS17 changes of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda x: function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda x, y: function(x, y)


def _real_div(x: Tensor, y: Tensor) -> Tensor:
    """Quotient; of integers, truncated toward zero."""
    if x.is_floating_point() or y.is_floating_point():
        return x / y
    return torch.div(x, y, rounding_mode="trunc")


def _gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


def _by_channel(alpha: Tensor, x: Tensor) -> Tensor:
    """A value for each channel (axis 1) of `x`."""
    return alpha.reshape(1, -1, *[1] * (x.ndim - 2)) if x.ndim > 1 and alpha.ndim else alpha


def _prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x >= 0, x, x * _by_channel(alpha, x))


def _softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return _by_channel(alpha, x) * F.softplus(x * _by_channel(beta, x))


def _clamped_relu(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.minimum(torch.where(x >= 0, x, alpha * x), beta)


def _sigmoid_hard(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


def _softmax(x: Tensor, axis: Tensor | int = -1) -> Tensor:
    return x.softmax(int(axis))


def _reduction(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A reduction over `axes`, all of them where none are named."""

    def reduce(x: Tensor, axes: Tensor | None = None, keep_dims: Any = False) -> Tensor:
        dims = [int(axis) for axis in axes] if axes is not None else list(range(x.ndim))
        return function(x, tuple(dims), bool(keep_dims)) if dims else x

    return reduce


def _product(x: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    for dim in sorted((dim % x.ndim for dim in dims), reverse=True):
        x = x.prod(dim, keepdim=keep)
    return x


def _place(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def find(
        x: Tensor,
        axis: Tensor | int = -1,
        keep_dims: Any = False,
        output_dtype: str = "int32",  # noqa: ARG001  the output's declaration says it too
    ) -> Tensor:
        return function(x, dim=int(axis), keepdim=bool(keep_dims))

    return find


def _with_epsilon(function: Callable[[Tensor], Tensor], default: float) -> Callable[..., Tensor]:
    def shifted(x: Tensor, epsilon: Tensor | float = default) -> Tensor:
        return function(x + epsilon)

    return shifted


OPERATORS: dict[str, Callable[..., Any]] = {
    **{
        name: _unary(getattr(torch, name))
        for name in (
            "abs", "acos", "asin", "atan", "atanh", "ceil", "cos", "cosh", "erf", "exp", "exp2",
            "floor", "round", "sigmoid", "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh",
            "logical_not",
        )
    },
    **{
        name: _binary(getattr(torch, name))
        for name in (
            "add", "greater", "greater_equal", "less", "less_equal", "logical_and",
            "logical_or", "logical_xor", "maximum", "minimum", "mul", "not_equal", "pow", "sub",
        )
    },
    "equal": _binary(torch.eq),
    "floor_div": _binary(lambda x, y: torch.div(x, y, rounding_mode="floor")),
    "mod": _binary(torch.remainder),
    "real_div": _real_div,
    "identity": _unary(lambda x: x),
    "inverse": _with_epsilon(torch.reciprocal, 1e-4),
    "log": _with_epsilon(torch.log, 1e-45),
    "rsqrt": _with_epsilon(torch.rsqrt, 1e-12),
    "clip": lambda x, alpha, beta: x.clamp(alpha, beta),
    "threshold": lambda x, alpha: torch.maximum(x, alpha),
    "clamped_relu": _clamped_relu,
    "elu": lambda x, alpha: torch.where(x >= 0, x, alpha * torch.expm1(x)),
    "gelu": _gelu,
    "leaky_relu": lambda x, alpha: torch.where(x >= 0, x, alpha * x),
    "linear_activation": lambda x, alpha, beta: alpha * x + beta,
    "prelu": _prelu,
    "relu": _unary(torch.relu),
    "relu6": _unary(F.relu6),
    "scaled_tanh": lambda x, alpha, beta: alpha * torch.tanh(beta * x),
    "sigmoid_hard": _sigmoid_hard,
    "silu": _unary(F.silu),
    "softmax": _softmax,
    "softplus": _unary(F.softplus),
    "softplus_parametric": _softplus_parametric,
    "softsign": _unary(F.softsign),
    "thresholded_relu": lambda x, alpha: torch.where(x >= alpha, x, torch.zeros_like(x)),
    "reduce_argmax": _place(torch.argmax),
    "reduce_argmin": _place(torch.argmin),
    "reduce_l1_norm": _reduction(lambda x, d, k: x.abs().sum(d, keepdim=k)),
    "reduce_l2_norm": _reduction(lambda x, d, k: x.square().sum(d, keepdim=k).sqrt()),
    "reduce_log_sum": _reduction(lambda x, d, k: x.sum(d, keepdim=k).log()),
    "reduce_log_sum_exp": _reduction(lambda x, d, k: x.logsumexp(d, keepdim=k)),
    "reduce_max": _reduction(lambda x, d, k: x.amax(d, keepdim=k)),
    "reduce_mean": _reduction(lambda x, d, k: x.mean(d, keepdim=k)),
    "reduce_min": _reduction(lambda x, d, k: x.amin(d, keepdim=k)),
    "reduce_prod": _reduction(_product),
    "reduce_sum": _reduction(lambda x, d, k: x.sum(d, keepdim=k)),
    "reduce_sum_square": _reduction(lambda x, d, k: x.square().sum(d, keepdim=k)),
}  # fmt: skip
