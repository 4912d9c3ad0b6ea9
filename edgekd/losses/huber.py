"""Huber loss of the outputs of a regression, which is robust to outliers."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgekd.losses._tensors import check_positive, check_same_shape, in_full


def huber(
    student_outputs: Float[Tensor, "batch ..."],
    teacher_outputs: Float[Tensor, "batch ..."],
    *,
    delta: float = 1.0,
) -> Float[Tensor, ""]:
    """Half the squared difference of two outputs up to `delta`, linear beyond it, averaged.

    Args:
        delta: positive, in the outputs' unit.

    Raises:
        ValueError: `delta` is not positive, or the shapes differ.

    Source: Huber 1964, doi:10.1214/aoms/1177703732, equation 3.1.
    """
    check_positive(delta=delta)
    check_same_shape(student_outputs, teacher_outputs, "outputs")
    with in_full(student_outputs, teacher_outputs) as (student, teacher):
        return F.huber_loss(student, teacher, delta=delta)
