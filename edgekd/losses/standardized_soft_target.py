"""Soft targets of standardized logits."""

import torch
from jaxtyping import Float
from torch import Tensor

from edgekd.losses._tensors import above_rounding, check_logits, check_positive, in_full
from edgekd.losses.soft_target import soft_target

EPSILON = 1e-7
"""Added to the deviation, as in the authors' code."""


def standardized_soft_target(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """The soft-target loss of logits standardized to mean 0 and deviation 1 over the classes.

    A student only has to match the shape of a sample's logits: except for EPSILON, the loss is
    invariant to a positive affine map of them.

    Args:
        temperature: T, positive; the base temperature of the paper.

    Raises:
        ValueError: `temperature` is not positive, or the shapes differ or are not batch x classes
            with two classes or more.

    Source: Sun et al. 2024, arXiv:2403.01427, algorithm 1;
        github.com/sunshangquan/logit-standardization-KD.
    Differs: from the paper, like its code, by the unbiased deviation (over classes - 1) and by
        EPSILON; from both, logits that are constant up to rounding become zero without a gradient.
    """
    check_positive(temperature=temperature)
    check_logits(student_logits, teacher_logits)
    with in_full(student_logits, teacher_logits) as (student, teacher):
        return soft_target(_standard(student), _standard(teacher), temperature=temperature)


def _standard(logits: Tensor) -> Tensor:
    """Logits with mean 0 and deviation 1; constant logits become zero."""
    centred = above_rounding(logits - logits.mean(1, keepdim=True), of=logits)
    deviation = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    degrees: float = (logits.shape[1] - 1) ** 0.5
    standard: Tensor = centred / (deviation / degrees + EPSILON)
    return standard
