"""Similarity-preserving distillation (SP)."""

from jaxtyping import Float
from torch import Tensor

from edgekd.losses._tensors import check_same_batch, directions, in_full


def similarity_preserving(
    student_features: Float[Tensor, "batch ..."], teacher_features: Float[Tensor, "batch ..."]
) -> Float[Tensor, ""]:
    """The squared difference of the two matrices of inner products between all samples of the
    batch, with rows normalized to length 1, summed and divided by batch^2.

    The loss relates the samples of a batch.

    Raises:
        ValueError: these are not features of the same samples.

    Source: Tung, Mori 2019, arXiv:1907.09682, equations 1 to 4.
    """
    check_same_batch(student_features, teacher_features)
    with in_full(student_features, teacher_features) as (student, teacher):
        ours, theirs = (
            directions(flat @ flat.T) for flat in (student.flatten(1), teacher.flatten(1))
        )
        return (ours - theirs).square().mean()
