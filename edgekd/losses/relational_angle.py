"""Relational knowledge distillation, by angles."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgekd.losses._tensors import check_same_batch, directions, in_full


def relational_angle(
    student_features: Float[Tensor, "batch ..."], teacher_features: Float[Tensor, "batch ..."]
) -> Float[Tensor, ""]:
    """The smooth L1 difference of the cosines of the angles between all triples of samples,
    averaged over all triples, including those with a sample twice.

    The loss relates the samples of a batch, and needs memory for batch^2 x features and batch^3
    values. Samples that are equal up to rounding have no direction, and no gradient from it.

    Raises:
        ValueError: these are not features of the same samples.

    Source: Park et al. 2019, arXiv:1904.05068, equations 7 and 8.
    """
    check_same_batch(student_features, teacher_features)
    with in_full(student_features, teacher_features) as (student, teacher):
        return F.smooth_l1_loss(_cosines(student), _cosines(teacher))


def _cosines(features: Tensor) -> Tensor:
    """The cosines of the angles at each sample between all pairs of other samples."""
    flat = features.flatten(1)
    centred = flat - flat.mean(0)
    units = directions(centred[None] - centred[:, None], of=flat[:, None])
    return units @ units.transpose(1, 2)
