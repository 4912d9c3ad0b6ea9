"""Masked generative distillation (MGD)."""

from jaxtyping import Float
from torch import Tensor

from edgekd.losses._tensors import check_same_shape, in_full


def masked_generative(
    student_features: Float[Tensor, "batch ..."], teacher_features: Float[Tensor, "batch ..."]
) -> Float[Tensor, ""]:
    """The squared difference of the teacher's feature and the feature generated from the student's
    masked one, summed over a sample and averaged over the batch.

    The projector "generative", the default for this loss, masks the student's feature and generates
    from it.

    Raises:
        ValueError: the shapes differ.

    Source: Yang et al. 2022, arXiv:2205.01529, equation 4; divided by the batch, as in the authors'
        code.
    """
    check_same_shape(student_features, teacher_features, "features")
    with in_full(student_features, teacher_features) as (student, teacher):
        return (student - teacher).square().sum() / len(student)
