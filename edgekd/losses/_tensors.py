"""Shared by all losses: precision, no gradient into the teacher, checks of shapes and options."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

ROUNDINGS = 64
"""A vector shorter than this many rounding errors of the values it was computed from is zero: a sum
of some thousand terms may leave as much."""


@contextmanager
def in_full(student: Tensor, teacher: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both tensors in float32 or better, the teacher's detached, with autocast switched off."""
    with torch.autocast(student.device.type, enabled=False):
        dtype = torch.promote_types(student.dtype, torch.float32)
        yield student.to(dtype), teacher.detach().to(dtype)


def above_rounding(rows: Tensor, of: Tensor | None = None) -> Tensor:
    """`rows`, with zero in place of a row that is only the rounding error of the same row of `of`.

    Such a row has no direction and gets no gradient, which would be unbounded.
    """
    squared = rows.square().sum(-1, keepdim=True)
    whole = squared if of is None else of.square().sum(-1, keepdim=True)
    info = torch.finfo(rows.dtype)
    # clamp takes the number itself; a tensor of it would be copied to the device synchronously.
    least = ((ROUNDINGS * info.eps) ** 2 * whole).clamp(min=info.tiny)
    return torch.where(squared > least, rows, 0.0)


def directions(rows: Tensor, of: Tensor | None = None) -> Tensor:
    """`rows` normalized to length 1; a row that is only a rounding error of `of` becomes zero."""
    rows = above_rounding(rows, of)
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / torch.where(length > 0, length, 1.0)


def check_same_shape(student: Tensor, teacher: Tensor, what: str) -> None:
    """Raises a ValueError if the two differ in shape."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"student {what} {tuple(student.shape)} and teacher {what} {tuple(teacher.shape)} "
            "differ in shape"
        )


def check_logits(student: Tensor, teacher: Tensor) -> None:
    """Raises a ValueError if the two are not logits of the same samples and classes."""
    check_same_shape(student, teacher, "logits")
    if student.ndim != 2 or student.shape[1] < 2:
        raise ValueError(
            f"student logits {tuple(student.shape)} and teacher logits {tuple(teacher.shape)} "
            "are not batch x classes, with two classes or more"
        )


def check_same_batch(student: Tensor, teacher: Tensor) -> None:
    """Raises a ValueError if the two are not features of the same number of samples."""
    if student.ndim < 2 or teacher.ndim < 2 or len(student) != len(teacher):
        raise ValueError(
            f"student features {tuple(student.shape)} and teacher features "
            f"{tuple(teacher.shape)} are not batch x features of the same samples"
        )


def check_positive(**options: float) -> None:
    """Raises a ValueError if an option is not positive and finite."""
    for name, value in options.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")
