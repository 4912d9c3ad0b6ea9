"""What all losses do before they compute: one precision, no gradient into the teacher."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def in_full(student: Tensor, teacher: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The two in float32 or better, the teacher detached; while open, autocast is off."""
    with torch.autocast(student.device.type, enabled=False):
        dtype = torch.promote_types(student.dtype, torch.float32)
        yield student.to(dtype), teacher.detach().to(dtype)


def directions(rows: Tensor, of: Tensor | None = None) -> Tensor:
    """The rows, each of length 1; one whose length is only rounding of `of` becomes zero.

    Such a row has no direction, and no gradient: that of its length would be without bound.
    """
    squared = rows.square().sum(-1, keepdim=True)
    whole = squared if of is None else of.square().sum(-1, keepdim=True)
    info = torch.finfo(rows.dtype)
    there = squared > torch.maximum((64 * info.eps) ** 2 * whole, squared.new_tensor(info.tiny))
    return torch.where(there, rows, 0.0) / torch.where(there, squared, 1.0).sqrt()


def check_same_shape(student: Tensor, teacher: Tensor, what: str) -> None:
    """Raises ValueError where the two differ in shape."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"student {what} {tuple(student.shape)} and teacher {what} {tuple(teacher.shape)} "
            "differ in shape"
        )


def check_same_batch(student: Tensor, teacher: Tensor) -> None:
    """Raises ValueError where the two are not of as many samples, with some features each."""
    if student.ndim < 2 or teacher.ndim < 2 or len(student) != len(teacher):
        raise ValueError(
            f"student features {tuple(student.shape)} and teacher features "
            f"{tuple(teacher.shape)} are not batch x features of the same samples"
        )


def check_positive(**options: float) -> None:
    """Raises ValueError where an option is not over zero."""
    for name, value in options.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
