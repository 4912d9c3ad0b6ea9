"""FitNets' hints: mean squared difference of an inner layer."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgekd.losses._tensors import check_same_shape, in_full


def hint(
    student_features: Float[Tensor, "batch ..."], teacher_features: Float[Tensor, "batch ..."]
) -> Float[Tensor, ""]:
    """The mean squared difference of two features of the same shape.

    Raises:
        ValueError: the shapes differ; use a projector.

    Source: Romero et al. 2015, arXiv:1412.6550, equation 3, with the mean over all values instead
        of half the sum.
    """
    check_same_shape(student_features, teacher_features, "features")
    with in_full(student_features, teacher_features) as (student, teacher):
        return F.mse_loss(student, teacher)
