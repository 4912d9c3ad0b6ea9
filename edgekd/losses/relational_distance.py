"""Relational knowledge distillation, by distances."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgekd.losses._tensors import ROUNDINGS, check_same_batch, in_full


def relational_distance(
    student_features: Float[Tensor, "batch ..."], teacher_features: Float[Tensor, "batch ..."]
) -> Float[Tensor, ""]:
    """The smooth L1 difference of the distances between all samples of the batch, divided by their
    mean in each network, averaged over all pairs, including those of a sample with itself.

    The loss relates the samples of a batch. Features are centred and subtracted, so that a common
    offset costs no precision; a distance below the rounding error of the features is zero.

    Raises:
        ValueError: these are not features of the same samples.

    Source: Park et al. 2019, arXiv:1904.05068, equations 4 to 6.
    """
    check_same_batch(student_features, teacher_features)
    with in_full(student_features, teacher_features) as (student, teacher):
        return F.smooth_l1_loss(_distances(student), _distances(teacher))


def _distances(features: Tensor) -> Tensor:
    """The distances between all samples, divided by the mean of those that are not zero."""
    flat = features.flatten(1)
    centred = flat - flat.mean(0)
    # From differences, not from inner products; equal samples have gradient zero.
    distances = torch.cdist(centred, centred, compute_mode="donot_use_mm_for_euclid_dist")
    rounding = ROUNDINGS * torch.finfo(flat.dtype).eps * torch.linalg.vector_norm(flat, dim=1)
    apart = distances > torch.maximum(rounding[:, None], rounding)
    distances = torch.where(apart, distances, 0.0)
    mean = distances.sum() / apart.sum().clamp(min=1)
    return distances / torch.where(mean > 0, mean, 1.0)
