"""DistilBERT's cosine loss of hidden states."""

from jaxtyping import Float
from torch import Tensor

from edgekd.losses._tensors import check_same_shape, directions, in_full


def cosine_embedding(
    student_features: Float[Tensor, "batch ... features"],
    teacher_features: Float[Tensor, "batch ... features"],
) -> Float[Tensor, ""]:
    """One minus the cosine of the two features along the last axis, averaged.

    Raises:
        ValueError: the shapes differ.

    Source: Sanh et al. 2019, arXiv:1910.01108, section 2, "training loss".
    """
    check_same_shape(student_features, teacher_features, "features")
    with in_full(student_features, teacher_features) as (student, teacher):
        return (1.0 - (directions(student) * directions(teacher)).sum(-1)).mean()
