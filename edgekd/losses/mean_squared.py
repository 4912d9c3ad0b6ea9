"""Mean squared difference of the outputs of a regression or an embedding."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgekd.losses._tensors import check_same_shape, in_full


def mean_squared(
    student_outputs: Float[Tensor, "batch ..."], teacher_outputs: Float[Tensor, "batch ..."]
) -> Float[Tensor, ""]:
    """The mean squared difference of two outputs.

    Raises:
        ValueError: the shapes differ.

    Source: Ba, Caruana 2014, arXiv:1312.6184, section 2.2, for logits.
    """
    check_same_shape(student_outputs, teacher_outputs, "outputs")
    with in_full(student_outputs, teacher_outputs) as (student, teacher):
        return F.mse_loss(student, teacher)
