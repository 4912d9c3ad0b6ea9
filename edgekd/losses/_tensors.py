"""What all losses do before they compute: one precision, no gradient into the teacher, refusals."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

ROUNDINGS = 64
"""What is shorter than so many roundings of what it was computed from is taken for zero: as much as
a sum of some thousand terms may leave."""


@contextmanager
def in_full(student: Tensor, teacher: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The two in float32 or better, the teacher detached; while open, autocast is off."""
    with torch.autocast(student.device.type, enabled=False):
        dtype = torch.promote_types(student.dtype, torch.float32)
        yield student.to(dtype), teacher.detach().to(dtype)


def above_rounding(rows: Tensor, of: Tensor | None = None) -> Tensor:
    """The rows; one whose length is only rounding of the length of `of`'s becomes zero.

    Such a row has no direction, and gets no gradient: that of its direction would be without bound.
    """
    squared = rows.square().sum(-1, keepdim=True)
    whole = squared if of is None else of.square().sum(-1, keepdim=True)
    info = torch.finfo(rows.dtype)
    # By clamp: a tensor made of the number would be copied to the device, and waited for.
    least = ((ROUNDINGS * info.eps) ** 2 * whole).clamp(min=info.tiny)
    return torch.where(squared > least, rows, 0.0)


def directions(rows: Tensor, of: Tensor | None = None) -> Tensor:
    """The rows, each of length 1; one that is only rounding of `of`'s becomes zero."""
    rows = above_rounding(rows, of)
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / torch.where(length > 0, length, 1.0)


def check_same_shape(student: Tensor, teacher: Tensor, what: str) -> None:
    """Raises ValueError where the two differ in shape."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"student {what} {tuple(student.shape)} and teacher {what} {tuple(teacher.shape)} "
            "differ in shape"
        )


def check_logits(student: Tensor, teacher: Tensor) -> None:
    """Raises ValueError where the two are not logits of the same samples and classes."""
    check_same_shape(student, teacher, "logits")
    if student.ndim != 2 or student.shape[1] < 2:
        raise ValueError(
            f"student logits {tuple(student.shape)} and teacher logits {tuple(teacher.shape)} "
            "are not batch x classes, of two classes or more"
        )


def check_same_batch(student: Tensor, teacher: Tensor) -> None:
    """Raises ValueError where the two are not of as many samples, with some features each."""
    if student.ndim < 2 or teacher.ndim < 2 or len(student) != len(teacher):
        raise ValueError(
            f"student features {tuple(student.shape)} and teacher features "
            f"{tuple(teacher.shape)} are not batch x features of the same samples"
        )


def check_positive(**options: float) -> None:
    """Raises ValueError where an option is not over zero, or infinite."""
    for name, value in options.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")
