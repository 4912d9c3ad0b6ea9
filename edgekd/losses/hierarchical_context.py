"""ReviewKD's hierarchical context loss of one level."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgekd.losses._tensors import check_same_shape, in_full

POOLED_TO = (4, 2, 1)
"""The sizes of the contexts; each has half the weight of the one before."""


def hierarchical_context(
    student_features: Float[Tensor, "batch channels *space"],
    teacher_features: Float[Tensor, "batch channels *space"],
) -> Float[Tensor, ""]:
    """The mean squared difference of two maps, and of the maps average-pooled to 4, 2 and 1
    positions per axis, with weights 1, 1/2, 1/4 and 1/8 divided by their sum.

    A context as large as the map is omitted. For several levels, use the loss once per level.

    Raises:
        ValueError: the shapes differ, or the features are not maps.

    Source: Chen et al. 2021, arXiv:2104.09044, section 3.4; github.com/dvlab-research/ReviewKD,
        function hcl.
    """
    check_same_shape(student_features, teacher_features, "features")
    if student_features.ndim not in (3, 4):
        raise ValueError(f"features {tuple(student_features.shape)} are not maps")
    pool = F.adaptive_avg_pool1d if student_features.ndim == 3 else F.adaptive_avg_pool2d
    with in_full(student_features, teacher_features) as (student, teacher):
        loss, total, weight = F.mse_loss(student, teacher), 1.0, 1.0
        for size in POOLED_TO:
            if size >= student.shape[-2 if student.ndim == 4 else -1]:
                continue
            weight /= 2.0
            total += weight
            loss = loss + weight * F.mse_loss(pool(student, size), pool(teacher, size))
        return torch.as_tensor(loss / total)
