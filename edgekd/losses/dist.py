"""DIST: correlations of probabilities instead of their equality."""

import torch
from jaxtyping import Float
from torch import Tensor

from edgekd.losses._tensors import above_rounding, check_logits, check_positive, in_full

EPSILON = 1e-8
"""Added to the product of two deviations, as in the authors' code. It limits the weight of classes
that are improbable in all samples, as most of 1,000 classes are."""


def dist(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    *,
    temperature: float = 1.0,
    inter_weight: float = 1.0,
    intra_weight: float = 1.0,
) -> Float[Tensor, ""]:
    """One minus the Pearson correlation of the softened probabilities: of each sample over the
    classes (inter), and of each class over the samples of the batch (intra); times T^2.

    The loss relates the samples of a batch. For one sample, intra is 1 and has no gradient. If
    student and teacher are equal, the loss is zero except for EPSILON: a row or column with the
    deviation d (the root of the sum of squares) adds EPSILON / (d^2 + EPSILON) to the mean.

    Args:
        temperature: T, positive.
        inter_weight, intra_weight: weights of the two correlations.

    Raises:
        ValueError: `temperature` is not positive, or the shapes differ or are not batch x classes.

    Source: Huang et al. 2022, arXiv:2205.10536, equations 7 to 9; the factor T^2 and EPSILON are
        those of github.com/hunto/DIST_KD.
    Differs: a row or column that is constant up to rounding has correlation 0 and no gradient.
    """
    check_positive(temperature=temperature)
    check_logits(student_logits, teacher_logits)
    with in_full(student_logits, teacher_logits) as (student, teacher):
        ours = torch.softmax(student / temperature, dim=1)
        theirs = torch.softmax(teacher / temperature, dim=1)
        inter = 1.0 - _correlation(ours, theirs).mean()
        intra = 1.0 - _correlation(ours.T, theirs.T).mean()
        return (inter_weight * inter + intra_weight * intra) * temperature**2


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """The Pearson correlation of the rows of `a` with those of `b`; zero if one is constant."""
    a, b = (above_rounding(rows - rows.mean(1, keepdim=True), of=rows) for rows in (a, b))
    lengths = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    correlation: Tensor = (a * b).sum(1) / (lengths + EPSILON)
    return correlation
