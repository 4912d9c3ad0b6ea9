"""Soft targets of standardized logits."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from edgekd.losses._tensors import check_positive, check_same_shape, directions, in_full
from edgekd.losses.soft_target import soft_target


def standardized_soft_target(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """The soft-target loss of logits that have mean 0 and deviation 1 over the classes.

    A student only has to match the shape of a sample's logits: the loss does not change under a
    positive affine map of them. The deviation is the unbiased one (classes - 1), as in the authors'
    code; the paper's formula has the other one. The code's epsilon of 1e-7 is not needed here.

    Args:
        temperature: T, over 0; the base temperature of the paper.

    Raises:
        ValueError: `temperature` is not positive, the shapes differ, or there is only one class.

    Source: Sun et al. 2024, arXiv:2403.01427, algorithm 1;
        github.com/sunshangquan/logit-standardization-KD.
    """
    check_positive(temperature=temperature)
    check_same_shape(student_logits, teacher_logits, "logits")
    if student_logits.shape[1] < 2:
        raise ValueError("logits of one class have no deviation")
    with in_full(student_logits, teacher_logits) as (student, teacher):
        return soft_target(_standard(student), _standard(teacher), temperature=temperature)


def _standard(logits: Tensor) -> Tensor:
    """Of mean 0 and deviation 1; constant logits become zero."""
    spread: float = (logits.shape[1] - 1) ** 0.5
    return spread * directions(logits - logits.mean(1, keepdim=True), of=logits)
