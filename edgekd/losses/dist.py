"""DIST: correlations instead of equality."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from edgekd.losses._tensors import check_positive, check_same_shape, directions, in_full


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

    It relates the samples of a batch. Of one sample, intra is 1 and has no gradient.

    Args:
        temperature: T, over 0.
        inter_weight, intra_weight: of the two correlations.

    Raises:
        ValueError: `temperature` is not positive, or the shapes differ.

    Source: Huang et al. 2022, arXiv:2205.10536, equations 7 to 9; the factor T^2 is that of
        github.com/hunto/DIST_KD, whose epsilon of 1e-8 beside the norms is not needed here.
    """
    check_positive(temperature=temperature)
    check_same_shape(student_logits, teacher_logits, "logits")
    with in_full(student_logits, teacher_logits) as (student, teacher):
        ours = torch.softmax(student / temperature, dim=1)
        theirs = torch.softmax(teacher / temperature, dim=1)
        inter = 1.0 - _correlation(ours, theirs).mean()
        intra = 1.0 - _correlation(ours.T, theirs.T).mean()
        return (inter_weight * inter + intra_weight * intra) * temperature**2


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of the rows of `a` with those of `b`; zero where one is constant."""
    correlation: Tensor = (_standard(a) * _standard(b)).sum(1)
    return correlation


def _standard(rows: Tensor) -> Tensor:
    return directions(rows - rows.mean(1, keepdim=True), of=rows)
